"""Estimators of the bound, with standard errors."""

from markovae.likelihood.measure import Drawn, finish, measure, measuring, stratified_levels
from markovae.likelihood.record import LevelNats, Measurement, finite

__all__ = ["Drawn", "LevelNats", "Measurement", "finish", "finite", "measure", "measuring", "stratified_levels"]
