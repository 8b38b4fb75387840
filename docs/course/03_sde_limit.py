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
# # 3 The endpoint rule and the SDE limit

# %% [markdown]
# With one $\sigma$ at every level the signal falls as $\alpha^\ell$. The **endpoint rule** takes the least $L$ with
# $\alpha^L < \delta$. As $\sigma \to 0$ the chain becomes a stochastic differential equation, $dz = -z\,dt + \sqrt
# 2\,dW$, in the time $t = -\ln a$.

# %%
import matplotlib.pyplot as plt
import torch

from markovae.course import check
from markovae.diffusion.schedule import endpoint_levels
from markovae.randomness import generator
from markovae.theory.sde import simulate

for sigma in (0.3, 0.1, 0.03):
    print(f"sigma {sigma}: {endpoint_levels(sigma, 0.01)} levels until 1 % of the signal is left")

# %%
start = torch.full((200, 1), 2.0, dtype=torch.float64)
steps = torch.full((200,), 0.015, dtype=torch.float64)
states = torch.stack(list(simulate(start, steps, generator(0, "course"))))[..., 0]
plt.plot(torch.arange(len(states)) * 0.015, states[:, :30], color="tab:blue", alpha=0.3)
plt.plot(torch.arange(len(states)) * 0.015, states.mean(1), color="black", label="mean of 200 paths")
plt.plot(torch.arange(len(states)) * 0.015, 2 * torch.exp(-torch.arange(len(states)) * 0.015), "r--", label="2 exp(-t)")
plt.xlabel("time t")
plt.legend()
plt.show()

# %% [markdown]
# ## Exercises
#
# Fill in each function and run its cell: the check says in words what is wrong.


# %%
# The endpoint rule: the least whole L with (1 − σ²)^{L/2} < δ. Strictly below: a tie takes one level more
def endpoint_levels(sigma, delta): ...


check(endpoint_levels)


# %%
# The time t = −ln a at which the SDE has left the signal scale a, (L,)
def time_of(signal): ...


check(time_of)


# %%
# z_t of the SDE from z_0 = x and standard noise, in one leap. (B, D); time: ()
def sde_marginal(x, noise, time): ...


check(sde_marginal)


# %%
# One Euler–Maruyama step of dz = −z dt + √2 dW: z after dt. z, noise: (B, D). dt: ()
def sde_step(z, noise, dt): ...


check(sde_step)
