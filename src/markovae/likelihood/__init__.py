"""Estimators of the bound, with standard errors; what is fitted before them; and other likelihoods."""

from markovae.likelihood.asking import measure
from markovae.likelihood.continuous import continuous_bound, continuous_draws
from markovae.likelihood.control import Wiener, WienerControl
from markovae.likelihood.dequantise import TruncatedNormalNoise, UniformNoise
from markovae.likelihood.estimators import Drawn, Estimator, finish, measure_with, measuring
from markovae.likelihood.information import block_partners, chosen_log_prob, information_bound, shared_nats
from markovae.likelihood.integrate import DormandPrince, RungeKutta4
from markovae.likelihood.law import LevelLaw, stratified_levels
from markovae.likelihood.method import Method, Prepared, prepare, prepare_pair, same_levels
from markovae.likelihood.ode import OdeLikelihood, ode_likelihood
from markovae.likelihood.paired import Comparison, compare, refuse_other_data
from markovae.likelihood.rate import RatePoint, rate_distortion
from markovae.likelihood.record import LevelNats, Measurement, finite
from markovae.likelihood.subgrid import Subgrids, diagonal_costs, isotropic_costs, posterior_costs, search, step_costs
from markovae.likelihood.surveying import Survey, fit_reverse, levels_each, survey

__all__ = [
    "Comparison",
    "DormandPrince",
    "Drawn",
    "Estimator",
    "LevelLaw",
    "LevelNats",
    "Measurement",
    "Method",
    "OdeLikelihood",
    "Prepared",
    "RatePoint",
    "RungeKutta4",
    "Subgrids",
    "Survey",
    "TruncatedNormalNoise",
    "UniformNoise",
    "Wiener",
    "WienerControl",
    "block_partners",
    "chosen_log_prob",
    "compare",
    "continuous_bound",
    "continuous_draws",
    "diagonal_costs",
    "finish",
    "finite",
    "fit_reverse",
    "information_bound",
    "isotropic_costs",
    "levels_each",
    "measure",
    "measure_with",
    "measuring",
    "ode_likelihood",
    "posterior_costs",
    "prepare",
    "prepare_pair",
    "rate_distortion",
    "refuse_other_data",
    "same_levels",
    "search",
    "shared_nats",
    "step_costs",
    "stratified_levels",
    "survey",
]
