"""A loss of your own: weights over levels as functions of log-SNR, or any function of model, images and condition."""

import torch

import markovae as mv

digits = mv.load_data("digits")
config = mv.Config().with_settings(["network.width=16", "network.blocks=1", "target.name=noise"])
model = mv.create(config, digits.train)

# Weights w(λ), and how densely levels are drawn: here sigmoid weights (Kingma and Gao 2023).
objective = mv.Objective.of(model.schedule, weight=lambda logsnr: torch.sigmoid(2 - logsnr))
*_, last = mv.fit(model, digits, objective=objective, steps=5, precision="float32")
print(f"weighted by level: {last.loss:.3f}")


def absolute_error(
    model: mv.Diffusion, x: torch.Tensor, condition: mv.Condition | None, generator: torch.Generator
) -> torch.Tensor:
    """E|x − x̂| per image, (B,), at levels drawn uniformly."""
    level = torch.randint(1, model.num_levels + 1, (len(x),), generator=generator)
    logsnr = model.schedule.logsnr[level]
    signal, noise = (torch.sigmoid(sign * logsnr).sqrt().float()[:, None, None, None] for sign in (1, -1))
    z = signal * x + noise * torch.randn(x.shape, generator=generator)
    return (x - model.denoise(z, logsnr, condition)).abs().flatten(1).mean(1)


*_, last = mv.fit(model, digits, loss=absolute_error, steps=5, precision="float32")
print(f"absolute error: {last.loss:.3f}")
