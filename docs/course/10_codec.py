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
# # 10 Few levels, and the bound as a file

# %% [markdown]
# A coarser chain of K levels has a bound of its own, and bits-back coding writes a file whose length is that bound.
# Few levels are fast and long; many are slow and short.

# %%
import matplotlib.pyplot as plt

import markovae as mv
from markovae.course import check

digits = mv.load_data("digits")
model = mv.create(mv.Config().with_settings(["network.width=16", "network.blocks=1"]), digits.train)
for _ in mv.fit(model, digits.train, steps=300, precision="float32"):
    pass
better = mv.with_reverse(model, "isotropic", digits.train.images[:64])
images, labels = digits.test.images[:8], digits.test.labels[:8]
counts = [4, 8, 16, 32, 64]
bits = [mv.measure(better, images, labels, levels=count, draws="all").bits_per_dim.value for count in counts]
plt.semilogx(counts, bits, "o-")
plt.xlabel("levels K")
plt.ylabel("bits/dim")
plt.show()

# %% [markdown]
# ## Exercises
#
# Fill in each function and run its cell: the check says in words what is wrong.


# %%
# The net length of a bits-back code in bits, (B,): log_joint = ln p_pri(z_0 … z_L), log_encoder = ln p_enc(z_1
# … z_L | z_0), nats
def bits_back(log_joint, log_encoder): ...


check(bits_back)


# %%
# Bits per symbol that a coder with integer counts (K,) wastes on symbols of these probabilities (K,): KL(p ‖
# counts/total), in bits
def coder_overhead(probabilities, counts): ...


check(coder_overhead)
