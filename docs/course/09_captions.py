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
# # 9 Conditions: guidance, and captions in nats

# %% [markdown]
# A condition (a class, a caption) goes to the network beside $z$. Guidance extrapolates from the model without it to
# the model with it; measuring with and without tells in nats what the condition says about the image.

# %%
import matplotlib.pyplot as plt

import markovae as mv
from markovae.course import check

digits = mv.load_data("digits")
model = mv.create(mv.Config().with_settings(["network.width=16", "network.blocks=1"]), digits.train)
for _ in mv.fit(model, digits.train, steps=300, precision="float32"):
    pass
figure, axes = plt.subplots(1, 3, figsize=(9, 3))
for axis, weight in zip(axes, (1.0, 2.0, 4.0), strict=True):
    digits_3 = mv.sample(model, 16, steps=10, labels=3, guidance=weight, seed=0)
    axis.imshow(mv.grid(digits_3, bins=model.pixels.bins), cmap="gray")
    axis.set_title(f"class 3, guidance {weight:g}")
    axis.axis("off")
plt.show()

# %%
images, labels = digits.test.images[:32], digits.test.labels[:32]
known = mv.measure(model, images, labels, draws=8)
unknown = mv.measure(model, images, draws=8)
print(f"with the class: {known.nats} nats, without: {unknown.nats} nats")

# %% [markdown]
# ## Exercises
#
# Fill in each function and run its cell: the check says in words what is wrong.


# %%
# What captions tell of their images, nats: (mean gain, its standard error) of paired bounds (N,), as a tuple
def caption_gain(without, with_caption): ...


check(caption_gain)


# %%
# Classifier-free guidance: weight 0 is the unconditional x̂, 1 the conditional; more goes beyond. (B, D)
def guided(x_hat, x_hat_null, weight): ...


check(guided)
