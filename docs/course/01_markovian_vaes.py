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
# # 1 Markovian VAEs and their bound, by enumeration

# %% [markdown]
# A **Markovian VAE** has two chains over a ladder of latents $z_0 \ldots z_L$, with $z_0$ the data: the **encoder**
# climbs, $p_\mathrm{enc}(z_\ell \mid z_{\ell-1})$; the **prior** comes down, $p_\mathrm{pri}(z_L)$ and then
# $p_\mathrm{pri}(z_{\ell-1} \mid z_\ell)$. Over an alphabet of three letters every path can be written out, so that
# nothing has to be believed.

# %%
import matplotlib.pyplot as plt
import torch

from markovae.course import check
from markovae.theory.categorical import CategoricalChain, categorical_entropy, exact_categorical, uniform_transition

data = torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64)
encoder = torch.stack([uniform_transition(3, 0.3)] * 4)  # four levels; each changes a letter with probability 0.3
exact = exact_categorical(data, encoder)  # the prior that is the encoder's true reverse
paths, weights = exact.paths(data)
print(f"{len(weights)} paths, probabilities that sum to {float(weights.sum()):.12f}")

# %% [markdown]
# The bound (E1) is the mean of $-\ln p_\mathrm{pri}(z_0 \ldots z_L) / p_\mathrm{enc}(z_1 \ldots z_L \mid z_0)$ over
# the paths. It exceeds the entropy of the data by exactly the KL divergence between the two joint distributions:
# nothing, where the prior is the true reverse. Mix the exact prior with a uniform one, and watch both.

# %%
mixing = torch.linspace(0, 1, 21, dtype=torch.float64)
excess = []
for share in mixing:
    prior = (1 - share) * exact.reverse + share / 3
    excess.append(CategoricalChain(encoder, exact.top, prior).path_kl(data))
entropy = categorical_entropy(data)
plt.plot(mixing, [entropy + nats for nats in excess], label="bound")
plt.axhline(entropy, color="gray", linestyle=":", label="entropy of the data")
plt.xlabel("share of a uniform prior")
plt.ylabel("nats")
plt.legend()
plt.show()

# %% [markdown]
# ## Exercises
#
# Fill in each function and run its cell: the check says in words what is wrong.


# %%
# ln p_pri(z_0 … z_L) of one path of letters, nats. path: (L+1,) letters z_0 … z_L. top: (K,), p_pri(z_L).
# prior: (L, K, K), prior[l-1, z_l, z_{l-1}] = p_pri(z_{l-1} | z_l)
def prior_log_prob(path, top, prior): ...


check(prior_log_prob)


# %%
# p_pri(z_0) of every letter, (K,): the prior's steps applied from the top down. Shapes as in prior_log_prob
def marginal(top, prior): ...


check(marginal)


# %%
# E1 of one path: −ln [p_pri(z_0 … z_L) / p_enc(z_1 … z_L | z_0)], nats. encoder: (L, K, K), encoder[l-1,
# z_{l-1}, z_l] = p_enc(z_l | z_{l-1}); the rest as in prior_log_prob
def path_cost(path, encoder, top, prior): ...


check(path_cost)


# %%
# The bound of one letter z_0, nats: the mean of E1 over every path, each with the encoder's probability
def enumerated_bound(letter, encoder, top, prior): ...


check(enumerated_bound)


# %%
# KL(p ‖ q) = Σ p ln(p/q) of two distributions over letters, (K,), nats
def kl_divergence(p, q): ...


check(kl_divergence)


# %%
# The reverse of one encoder step, (K, K), reverse[z_1, z_0] = p(z_0 | z_1), by Bayes. data: (K,), p(z_0). step:
# (K, K), step[z_0, z_1] = p_enc(z_1 | z_0)
def exact_reverse(data, step): ...


check(exact_reverse)
