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
# # 4 Six forms of one bound, along one path

# %% [markdown]
# E1 is rewritten, by the Markov property, by Bayes' rule and by a telescoping sum, until E6: KL divergences that are
# known in closed form,
#
# $$\mathrm{KL}(p_\mathrm{enc}(z_L \mid z_0), p_\mathrm{pri}(z_L)) + \sum_{\ell \ge 2}
# \mathrm{KL}(p_\mathrm{enc}(z_{\ell-1} \mid z_\ell, z_0), p_\mathrm{pri}(z_{\ell-1} \mid z_\ell)) - \ln
# p_\mathrm{pri}(z_0 \mid z_1).$$
#
# The first five agree along every single path; E6 agrees in the mean and scatters far less.

# %%
import matplotlib.pyplot as plt

from markovae.course import check
from markovae.diffusion.decoder import DensityDecoder
from markovae.diffusion.forms import e1, e2, e3, e4, e5, e6
from markovae.diffusion.model import Diffusion
from markovae.diffusion.reverse import PosteriorVariance
from markovae.diffusion.schedule import LogSNRLinear
from markovae.diffusion.target import DATA
from markovae.randomness import generator
from markovae.theory.mixture import Denoiser, line_mixture

toy = line_mixture()  # two Gaussians on a line: the best network is known
schedule = LogSNRLinear(20, start=6.0, end=-6.0)
chain = Diffusion(Denoiser(toy), schedule, DATA, PosteriorVariance(), DensityDecoder(), (1,))
source = generator(0, "course")
x = toy.sample(400, source)
path = chain.encode(x, source)
for name, form in (("E1", e1), ("E2", e2), ("E3", e3), ("E4", e4), ("E5", e5), ("E6", e6)):
    nats = form(chain, path).nats
    print(
        f"{name}: first path {float(nats[0]):8.4f}, mean {float(nats.mean()):.4f}, scatter {float(nats.std()):.3f} nats"
    )

# %%
plt.hist(e1(chain, path).nats, bins=40, alpha=0.6, label="E1")
plt.hist(e6(chain, path).nats, bins=40, alpha=0.6, label="E6")
plt.xlabel("nats of one path")
plt.legend()
plt.show()

# %% [markdown]
# ## Exercises
#
# Fill in each function and run its cell: the check says in words what is wrong.


# %%
# From E3 to E4: ln p_enc(z_l | z_{l-1}, z_0) from ln p_enc(z_{l-1} | z_l, z_0), ln p_enc(z_l | z_0) and ln
# p_enc(z_{l-1} | z_0), each (B,)
def bayes_encoder(log_posterior, log_marginal, log_marginal_prev): ...


check(bayes_encoder)


# %%
# The first term of E6: KL(p_enc(z_L | x) ‖ N(0, I)) of each example, nats, (B,). x: (B, D). logsnr: of L, ()
def top_kl(x, logsnr): ...


check(top_kl)


# %%
# A middle term of E6 where the prior has the variance β̃: KL(q(z_{l-1}|z_l, x) ‖ p_pri(z_{l-1}|z_l)) of each
# example, nats, (B,), for the network's estimate x_hat. x, x_hat: (B, D). log-SNRs: ()
def level_kl(x, x_hat, logsnr_prev, logsnr): ...


check(level_kl)


# %%
# KL of Gaussians with diagonal covariance, KL(N(mean, variance) ‖ N(other_mean, other_variance)), nats, (B,).
# All (B, D)
def gaussian_kl(mean, variance, other_mean, other_variance): ...


check(gaussian_kl)
