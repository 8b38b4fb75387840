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
# # 5 What the network is asked for

# %% [markdown]
# The network may predict the data, the noise of all steps together, the noise of one step, the velocity, the score or
# the mean: six affine maps of one another. What differs is the scale of the target, and so of the gradient, from
# level to level.

# %%
import matplotlib.pyplot as plt
import torch

from markovae.course import check
from markovae.diffusion.schedule import LogSNRLinear
from markovae.diffusion.target import TARGETS

logsnr = LogSNRLinear(100).logsnr[1:]
before, now = logsnr[:-1], logsnr[1:]
x, noise = torch.tensor(0.5, dtype=torch.float64), torch.tensor(1.0, dtype=torch.float64)
for target in TARGETS:
    values = torch.stack([target.of(x, noise, level, prev) for prev, level in zip(before, now, strict=True)])
    plt.plot(now, values.abs(), label=target.name)
plt.yscale("log")
plt.xlabel("log-SNR")
plt.ylabel("size of the target for x = 0.5, noise = 1")
plt.legend()
plt.show()

# %% [markdown]
# ## Exercises
#
# Fill in each function and run its cell: the check says in words what is wrong.


# %%
# x from a latent z = a x + s ε and its cumulative noise ε, (B, D); logsnr: ()
def x_from_noise(z, noise, logsnr): ...


check(x_from_noise)


# %%
# The velocity v = a ε − s x of an example and its noise, (B, D); logsnr: ()
def velocity(x, noise, logsnr): ...


check(velocity)


# %%
# x from a latent and its velocity v = a ε − s x, (B, D); logsnr: ()
def x_from_velocity(z, velocity, logsnr): ...


check(x_from_velocity)


# %%
# The gradient of ln q(z | x) = ln N(z; a x, s²) by z, (B, D); logsnr: ()
def score(x, z, logsnr): ...


check(score)


# %%
# E[ε_l | x, z_l], the best guess of one step's noise from the cumulative noise ε̄, (B, D); log-SNRs: ()
def expected_step_noise(noise, logsnr_prev, logsnr): ...


check(expected_step_noise)


# %%
# μ_pri = z_{l-1} from z_l and the noise of this one step, of standard deviation sigma, a number. (B, D)
def mean_from_step_noise(z, step_noise, sigma): ...


check(mean_from_step_noise)


# %%
# Ho et al.'s mean of p_pri(z_{l-1} | z_l) from a prediction of the cumulative noise, (B, D); log-SNRs: ()
def mean_from_noise(z, noise, logsnr_prev, logsnr): ...


check(mean_from_noise)


# %%
# R = 1 + (1 − ρ²)/(ρ² m): how much larger the second moment of the raw one-step gradient is than after
# Rao–Blackwell. rho: ρ = σ/s, a number. error: m, the cumulative noise's squared error per dimension, a number
def gradient_ratio(rho, error): ...


check(gradient_ratio)
