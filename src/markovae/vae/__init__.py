r"""The Markovian VAE, the bound on the entropy of what is modelled, and the six equal forms of that bound."""

from markovae.vae.bound import Bound, Estimate, estimate_mean, stack_bounds
from markovae.vae.chain import Distribution, MarkovianVAE, TractableEncoder, checked_level, evaluating
from markovae.vae.forms import FORMS, Form, draw_form, e1, e2, e3, e4, e5, e6

__all__ = [
    "FORMS",
    "Bound",
    "Distribution",
    "Estimate",
    "Form",
    "MarkovianVAE",
    "TractableEncoder",
    "checked_level",
    "draw_form",
    "e1",
    "e2",
    "e3",
    "e4",
    "e5",
    "e6",
    "estimate_mean",
    "evaluating",
    "stack_bounds",
]
