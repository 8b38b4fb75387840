# ---
# jupyter:
#   jupytext:
#     formats: py:percent,ipynb
#     text_representation:
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 8 Samplers are solvers

# %% [markdown]
# Sampling solves a differential equation from noise to data; what differs between samplers is the order of the error.
# With Gaussian data the exact solution is known, so the order can be read off a plot: halve the steps' width, and a
# second-order solver is four times nearer.

# %%
from itertools import pairwise

import matplotlib.pyplot as plt
import torch

from markovae.course import check
from markovae.diffusion.forward import noise_scale, signal_scale
from markovae.sampling.samplers import held_step

VARIANCE = torch.tensor(0.25, dtype=torch.float64)


def denoise(z, logsnr):
    a, s = signal_scale(logsnr), noise_scale(logsnr)
    return a * VARIANCE / (a**2 * VARIANCE + s**2) * z


def exact(z, logsnr, logsnr_next):
    def spread(at):
        return (signal_scale(at) ** 2 * VARIANCE + noise_scale(at) ** 2).sqrt()

    return z * spread(logsnr_next) / spread(logsnr)


def solve(order, steps):
    grid, z, before = torch.linspace(-4, 4, steps + 1, dtype=torch.float64), torch.ones(1, 1, dtype=torch.float64), None
    for now, later in pairwise(grid):
        x_hat = denoise(z, now)
        ahead = x_hat if order == 1 or before is None else x_hat + (x_hat - before) / 2
        z, before = held_step(z, ahead, now, later), x_hat
    return float((z - exact(torch.ones(1, 1), grid[0], grid[-1])).abs())


counts = [8, 16, 32, 64, 128]
for order, name in ((1, "DDIM"), (2, "DPM-Solver++(2M)")):
    plt.loglog(counts, [solve(order, count) for count in counts], "o-", label=name)
plt.xlabel("evaluations of the network")
plt.ylabel("distance from the exact solution")
plt.legend()
plt.show()

# %% [markdown]
# ## Exercises
#
# Fill in each function and run its cell: the check says in words what is wrong.


# %%
# One deterministic DDIM step: z at logsnr_next, keeping the noise that x_hat implies. (B, D); log-SNRs: ()
def ddim_step(z, x_hat, logsnr, logsnr_next): ...


check(ddim_step)


# %%
# A draw of p_pri(z_{l-1} | z_l) with variance β̃ and this standard noise; logsnr is of l, logsnr_next of l−1.
# (B, D); log-SNRs: ()
def ancestral_step(z, x_hat, noise, logsnr, logsnr_next): ...


check(ancestral_step)


# %%
# DPM-Solver++(2M)'s D = x̂ + (x̂ − x̂_1)/(2 r), r = width_before/width: x̂ half a step ahead. (B, D); widths in
# log-SNR: ()
def extrapolated_x(x_hat, x_hat_before, width, width_before): ...


check(extrapolated_x)


# %%
# dz/dt of the probability-flow ODE in the time t = −ln a, from x_hat at log-SNR 0 (so a² = s² = ½): −z − score,
# with the score (a x̂ − z)/s². (B, D)
def flow_drift(z, x_hat): ...


check(flow_drift)
