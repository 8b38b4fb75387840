"""Measuring: estimators of the bound with standard errors, comparisons, sub-grids, and other likelihoods."""
