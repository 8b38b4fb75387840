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
# # 6 Pixels, and the U-Net

# %% [markdown]
# Pixel values become numbers in [−1, 1] by one function, and the network is a U-Net: convolutions, group
# normalization, attention at the coarse resolutions, and an embedding of the log-SNR. Here a small one learns the 8×8
# digits for a few seconds; `markovae train faces` takes minutes to learn faces.

# %%
import matplotlib.pyplot as plt

import markovae as mv
from markovae.course import check

digits = mv.load_data("digits")
model = mv.create(mv.Config().with_settings(["network.width=16", "network.blocks=1"]), digits.train)
print(f"{sum(weight.numel() for weight in model.parameters()):,} weights")
losses = [step.loss for step in mv.fit(model, digits.train, steps=300, precision="float32")]
plt.plot(losses)
plt.xlabel("step")
plt.ylabel("loss")
plt.show()

# %%
sheet = mv.grid(mv.sample(model, 16, steps=10, seed=0), bins=model.pixels.bins)
sheet.resize((8 * sheet.width, 8 * sheet.height), 0)  # every pixel as a square of eight

# %% [markdown]
# ## Exercises
#
# Fill in each function and run its cell: the check says in words what is wrong.


# %%
# Pixel values 0…255 on Ho et al.'s scale: 0 becomes −1 and 255 becomes 1. values: (B, D)
def pixels_to_x(values): ...


check(pixels_to_x)


# %%
# Group normalization without weights, eps = 1e-5: each example's channels in `groups` groups, to mean 0 and
# variance 1 within each. x: (B, C, H, W)
def group_norm(x, groups): ...


check(group_norm)


# %%
# softmax(q kᵀ/√d) v of one head. All (T, d); returns (T, d)
def attention(query, key, value): ...


check(attention)


# %%
# The running average of the weights after a step: decay of the old, the rest of the new. (D,), (D,), a number
def ema_update(average, weight, decay): ...


check(ema_update)


# %%
# The first half cos, the second sin, of values·f_i with f_i = 10000^(−i/(dim/2)), i = 0…dim/2−1. values: (B,);
# returns (B, dim)
def sinusoidal(values, dim): ...


check(sinusoidal)
