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
# # 2 The Gaussian chain and its closed form

# %% [markdown]
# DDPM's encoder shrinks a little and adds a little noise, $z_\ell = \sqrt{1-\sigma_\ell^2}\, z_{\ell-1} + \sigma_\ell
# \varepsilon_\ell$. All steps together are one big one, $z_\ell = a_\ell z_0 + s_\ell \bar\varepsilon$ with $a^2 +
# s^2 = 1$. A level is one number, its log-SNR $\lambda = \ln a^2/s^2$.

# %%
import matplotlib.pyplot as plt

from markovae.course import check
from markovae.diffusion.forward import noise_scale, posterior_variance, signal_scale, step_variance
from markovae.diffusion.schedule import LogSNRLinear

logsnr = LogSNRLinear(100).logsnr[1:]
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3))
left.plot(logsnr, signal_scale(logsnr), label="signal a")
left.plot(logsnr, noise_scale(logsnr), label="noise s")
right.semilogy(logsnr[1:], step_variance(logsnr[:-1], logsnr[1:]), label="encoder's step σ²")
right.semilogy(logsnr[1:], posterior_variance(logsnr[:-1], logsnr[1:]), label="posterior β̃", linestyle="--")
for axes in (left, right):
    axes.set_xlabel("log-SNR")
    axes.legend()
plt.show()

# %% [markdown]
# For Gaussian data everything is closed: the marginals, the posterior, the best denoiser and the entropy. That is
# what every estimator of the library is tested against.

# %% [markdown]
# ## Exercises
#
# Fill in each function and run its cell: the check says in words what is wrong.


# %%
# z_l from z_{l-1}: one step of DDPM's encoder. z_prev, step_noise: (B, D). sigma: the step's noise, a number
def encoder_step(z_prev, step_noise, sigma): ...


check(encoder_step)


# %%
# a_L: what the steps of noise sigmas (L,) leave of the signal together, ()
def signal_scale(sigmas): ...


check(signal_scale)


# %%
# s_L: the standard deviation of all the noise that the steps of noise sigmas (L,) leave in z_L, ()
def noise_scale(sigmas): ...


check(noise_scale)


# %%
# λ = ln(a²/s²) of signal scales a, (L,), with s² = 1 − a²
def logsnr(signal): ...


check(logsnr)


# %%
# The pair (a, s) at a log-SNR λ (), as a tuple of two numbers
def scales_of(logsnr): ...


check(scales_of)


# %%
# σ_l² = 1 − a_l²/a_{l-1}² from two log-SNRs (), right to the last digits where they are a billionth apart
def step_variance(logsnr_prev, logsnr): ...


check(step_variance)


# %%
# The mean of q(z_{l-1} | z_l, x), (B, D): what the prior must imitate. x, z: (B, D). log-SNRs: ()
def posterior_mean(x, z, logsnr_prev, logsnr): ...


check(posterior_mean)


# %%
# β̃_l = σ_l² s_{l-1}² / s_l², the variance of q(z_{l-1} | z_l, x), from two log-SNRs ()
def posterior_variance(logsnr_prev, logsnr): ...


check(posterior_variance)


# %%
# The differential entropy of a Gaussian with these eigenvalues of its covariance, (D,), nats
def gaussian_entropy(eigenvalues): ...


check(gaussian_entropy)


# %%
# E[x | z_l] for data N(mean, variance) of independent dimensions, (B, D). mean, variance: (D,). logsnr: ()
def exact_denoiser(z, mean, variance, logsnr): ...


check(exact_denoiser)
