"""Regression onto the targets, solved exactly: what each finds, and how large its gradients are."""

from markovae.regression.affine import Affine, Data, Fit, least_squares, on_mean, on_previous, on_step_noise
from markovae.regression.scales import (
    GradientScale,
    jacobian_squares,
    mean_loss_gradient,
    noise_loss_gradient,
    output_gradient,
    output_ratio,
    parameter_ratio,
)

__all__ = [
    "Affine",
    "Data",
    "Fit",
    "GradientScale",
    "jacobian_squares",
    "least_squares",
    "mean_loss_gradient",
    "noise_loss_gradient",
    "on_mean",
    "on_previous",
    "on_step_noise",
    "output_gradient",
    "output_ratio",
    "parameter_ratio",
]
