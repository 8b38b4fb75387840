"""`export --to torch`: a network that torch.export wrote, and a sampling loop of twenty lines, without this library."""

from __future__ import annotations

import io
import json
from typing import Any, final

import torch
from torch import Tensor, nn

from markovae.diffusion.cascade import Model
from markovae.diffusion.forward import noise_scale, signal_scale
from markovae.diffusion.model import Diffusion
from markovae.errors import UserError
from markovae.networks.conditioning import Condition
from markovae.sampling.plans import plan

BATCH = 8  # of the graph, whose shapes are fixed
SERVE = '''\
"""Images of an exported model: python serve.py [SEED [LABEL]]. Needs torch alone."""
import json, sys
from pathlib import Path
import torch

here = Path(__file__).parent
spec = json.loads((here / "sampler.json").read_text())
network = torch.export.load(here / "network.pt2").module()

def images(z, label=None):
    """z: standard normal, (batch, C, H, W), float32. label: (batch,), int64. Returns pixel values, int64."""
    known = () if label is None else (label,)
    for step in spec["steps"]:
        logsnr = torch.full((len(z),), step["logsnr"], dtype=torch.float64)
        z = step["c_z"] * z + step["c_x"] * network(z, logsnr, *known)
    return ((z.double() - spec["black"]) / spec["step"]).round().clamp(0, spec["bins"] - 1).long()

if __name__ == "__main__":
    torch.manual_seed(int(sys.argv[1]) if sys.argv[1:] else 0)
    label = torch.full((spec["batch"],), int((sys.argv[2:] or [0])[0])) if spec["classes"] else None
    torch.save(images(torch.randn(spec["batch"], *spec["shape"]), label), "images.pt")
'''


@final
class _Denoiser(nn.Module):
    """x̂(z, λ[, label]) of a model, as a module of its weights alone."""

    def __init__(self, model: Diffusion) -> None:
        super().__init__()
        self.network, self._model = model.network, [model]

    def forward(self, z: Tensor, logsnr: Tensor, label: Tensor | None = None) -> Tensor:
        return self._model[0].denoise(z, logsnr, None if label is None else Condition(label=label))


def torch_files(model: Model, class_names: tuple[str, ...]) -> dict[str, bytes]:
    """network.pt2, sampler.json, serve.py and README.md: DDIM in 20 evaluations, or a student's own.

    Raises:
        UserError: for a model of captions or of several stages, or a network whose graph torch cannot write down.
    """
    if not isinstance(model, Diffusion):
        raise UserError(
            "--to torch writes one network and its loop, and a cascade draws with several, each given what the one "
            "before drew: train with cascade.stages=1, or load the run with mv.load"
        )
    if model.text_conditioner is not None:
        raise UserError(
            "a model of captions needs its text encoder as well: --to torch writes models of images and classes"
        )
    if model.columns is not None:
        raise UserError(
            "a model of columns reads them by its own scale: --to torch writes models of images and classes"
        )
    classes = int(getattr(model.network, "num_classes", 0))
    label = (torch.zeros(BATCH, dtype=torch.int64),) if classes else ()
    example = (torch.zeros(BATCH, *model.shape), torch.zeros(BATCH, dtype=torch.float64), *label)
    try:
        with torch.no_grad():
            graph = torch.export.export(_Denoiser(model.eval().requires_grad_(False)), example, strict=False)
            buffer = io.BytesIO()
            torch.export.save(graph, buffer)
    except (RuntimeError, TypeError, AttributeError) as error:
        raise UserError(f"torch.export cannot write this network down: {str(error).splitlines()[0][:200]}") from None
    spec = json.dumps(_spec(model, class_names if classes else ()), indent=1) + "\n"
    files = {"sampler.json": spec, "serve.py": SERVE, "README.md": _card(model)}
    return {"network.pt2": buffer.getvalue(), **{name: text.encode() for name, text in files.items()}}


def _spec(model: Diffusion, class_names: tuple[str, ...]) -> dict[str, Any]:
    """The steps z' = c_z z + c_x x̂, noisiest first; and what black and one pixel value are on the model's scale."""
    grid = plan(model, "ddim").grid
    now, after = grid[1:].flip(0), grid[:-1].flip(0)
    c_z = noise_scale(after) / noise_scale(now)
    c_x = signal_scale(after) - c_z * signal_scale(now)
    steps = [
        {"logsnr": logsnr, "c_z": z, "c_x": x}
        for logsnr, z, x in zip(now.tolist(), c_z.tolist(), c_x.tolist(), strict=True)
    ]
    black, next_value = model.pixels.to_x(torch.tensor([0, 1])).tolist()
    return {
        "shape": list(model.shape),
        "batch": BATCH,
        "bins": model.pixels.bins,
        "black": black,
        "step": next_value - black,
        "classes": list(class_names),
        "steps": steps,
    }


def _card(model: Diffusion) -> str:
    channels, height, width = model.shape
    return (
        f"# A diffusion model of {width}x{height} images, {channels} channels\n\n"
        "`network.pt2` (torch.export) is x̂(z, λ): the image that a latent z = a x + s ε at log-SNR λ hides. "
        f"Batches of {BATCH}, float32; λ is float64. `sampler.json` has the steps of DDIM, `serve.py` the loop:\n\n"
        "```bash\npython serve.py 0\n```\n"
    )
