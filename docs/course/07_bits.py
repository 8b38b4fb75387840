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
# # 7 Where the bits are

# %% [markdown]
# The bound is a sum over levels, so it tells where the bits are: most in the finest details, few in what the eye
# calls content. Measured with few levels drawn at random the sum is still unbiased, and its standard error says how
# much that cost.

# %%
import matplotlib.pyplot as plt

import markovae as mv
from markovae.course import check

digits = mv.load_data("digits")
model = mv.create(mv.Config().with_settings(["network.width=16", "network.blocks=1"]), digits.train)
for _ in mv.fit(model, digits.train, steps=300, precision="float32"):
    pass
record = mv.measure(model, digits.test.images[:16], digits.test.labels[:16], levels=32, draws="all")
print(f"{record.bits_per_dim} bits/dim")
levels = record.to_dict()["per_level"]
plt.bar([row["logsnr"] for row in levels], [row["nats"] for row in levels], width=0.6)
plt.xlabel("log-SNR (fine details on the right)")
plt.ylabel("nats")
plt.show()

# %% [markdown]
# ## Exercises
#
# Fill in each function and run its cell: the check says in words what is wrong.


# %%
# Bits per dimension of an example of `dims` numbers that costs `nats`. nats: (B,). dims: a whole number
def bits_per_dim(nats, dims): ...


check(bits_per_dim)


# %%
# The whole bound of each example, nats, (B,): prior (B,), levels (B, L−1), reconstruction (B,)
def bound_total(prior, levels, reconstruction): ...


check(bound_total)


# %%
# ln of the probability of each pixel's bin under N(mean, scale²), nats, (B, D), on Ho et al.'s scale: a bin is
# x ± 1/255, and the bins at −1 and 1 are open outwards. scale: a number
def pixel_log_prob(x, mean, scale): ...


check(pixel_log_prob)


# %%
# An unbiased estimate of the sum over all levels from levels drawn independently: costs (M,), each drawn with
# probability probabilities (M,)
def estimate_levels(costs, probabilities): ...


check(estimate_levels)


# %%
# The standard error of the mean of independent values, (N,)
def standard_error(values): ...


check(standard_error)


# %%
# Nats per dimension of narrow bands of log-SNR, `width` wide, where the cumulative noise is predicted with mean
# squared error `error` per dimension: ½ error · width. Both (N,); returns their sum, ()
def noise_error_nats(error, width): ...


check(noise_error_nats)
