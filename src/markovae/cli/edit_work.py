"""What `markovae edit` does to an image, for options that were checked one by one."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import TYPE_CHECKING

from markovae.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from markovae.diffusion.model import Diffusion
    from markovae.networks.conditioning import Condition
    from markovae.sampling.editor import Editor
    from markovae.sampling.guidance import Guidance
    from markovae.sampling.inverse import LinearOperator

BLUR = 1.5


@dataclass(frozen=True)
class Edit:
    """What came out.

    Args:
        drawn: (n, *D) on the model's scale.   given: what is shown in the first row, (·, *D).   name: of the edit.
    """

    drawn: Tensor
    given: Tensor
    name: str


def edit_image(
    model: Diffusion, options: argparse.Namespace, condition: Condition | None = None, guidance: Guidance | None = None
) -> Edit:
    """The edit that the options ask for.

    Args:
        condition: a class or prompt, (1,).   guidance: towards it.
    Raises:
        UserError: for files, sizes or options that do not go together.
    """
    import torch

    from markovae.sampling.editor import Editor
    from markovae.sampling.guidance import Guidance, guided
    from markovae.sampling.plans import plan

    chosen = plan(model, sampler_of(options), calls_of(model, options))
    count = 1 if options.round_trip else options.n
    if condition is not None:
        condition = condition[torch.zeros(count, dtype=torch.int64)].to(model.device)
    denoiser = guided(model, condition, guidance or Guidance())
    editor = Editor(model, chosen, options.seed, condition, denoiser)
    if options.degrade is not None:
        return _restore(editor, options)
    x = _read(model, options.image)
    if options.mask is not None:
        return _inpaint(editor, options, x)
    if options.to is not None:
        other = _read(model, options.to)
        return Edit(editor.interpolate(x[0], other[0], count, options.level), torch.cat([x, other]), "interpolation")
    if options.round_trip:
        if len(editor.plan.grid) < 3:
            raise UserError(f"--steps {options.steps} leaves no step to noise and back: take more")
        return Edit(editor.decode(editor.encode(x)), x, "round trip")
    drawn = editor.vary(x.expand(count, *model.shape), options.from_level)
    return Edit(drawn, x, f"from level {options.from_level:g}")


def _inpaint(editor: Editor, options: argparse.Namespace, x: Tensor) -> Edit:
    import torch

    from markovae.cli.edit_files import read_mask

    known = ~torch.from_numpy(read_mask(options.mask, *x.shape[-2:]))
    many = x.expand(options.n, *x.shape[1:])
    if options.method == "repaint":
        drawn = editor.repaint(many, known, options.resampling)
    else:
        drawn = editor.inpaint(many, known, _covariance(options), options.iterations)
    shown = torch.where(known.to(x.device), x, torch.zeros_like(x))
    return Edit(drawn, torch.cat([x, shown]), f"inpainting by {options.method}")


def _restore(editor: Editor, options: argparse.Namespace) -> Edit:
    import torch

    from markovae.cli.edit_files import read_picture
    from markovae.sampling.inverse import Observation

    model, how = editor.model, options.degrade
    operator, shape = _operator(model, how)
    picture = read_picture(options.image, (_shape(model), shape))
    if picture.shape == model.shape:
        x = _scaled(model, picture)
        y, given = operator.apply(x), [x]
    else:
        y, given = _scaled(model, picture), []
    drawn = editor.restore(
        Observation(operator, y.expand(options.n, *y.shape[1:])), _covariance(options), options.iterations
    )
    factor = model.shape[-1] // y.shape[-1]
    shown = y.repeat_interleave(factor, -1).repeat_interleave(factor, -2).expand(1, *model.shape)
    return Edit(drawn, torch.cat([*given, shown]), f"restoration of {how}")


def _operator(model: Diffusion, how: str) -> tuple[LinearOperator, tuple[int, int, int]]:
    """The map that degrades, and the shape of what it leaves."""
    from markovae.sampling.inverse import Blur, BoxDown, Grey

    channels, height, width = _shape(model)
    if how == "blur":
        return Blur(height, width, BLUR), (channels, height, width)
    if how == "grey":
        if channels != 3:
            raise UserError("--degrade grey: this model's images have no colour to be restored")
        return Grey(), (1, height, width)
    factor = int(how.removeprefix("sr"))
    if height % factor or width % factor:
        raise UserError(f"--degrade {how}: images of {width}x{height} do not divide into squares of {factor}")
    return BoxDown(factor), (channels, height // factor, width // factor)


def _covariance(options: argparse.Namespace):  # type: ignore[no-untyped-def]
    from markovae.sampling.inverse import FullCovariance, IsotropicCovariance

    return IsotropicCovariance(0.25) if options.quick else FullCovariance()


def _read(model: Diffusion, path: str) -> Tensor:
    from markovae.cli.edit_files import read_picture

    return _scaled(model, read_picture(path, (_shape(model),)))


def _scaled(model: Diffusion, picture: np.ndarray) -> Tensor:
    import torch

    return model.pixels.to_x(torch.tensor(picture))[None].to(model.device, torch.float32)


def _shape(model: Diffusion) -> tuple[int, int, int]:
    channels, height, width = model.shape
    return channels, height, width


def calls_of(model: Diffusion, options: argparse.Namespace) -> int:
    """Network calls of a walk."""
    repaint = options.mask is not None and options.method == "repaint"
    return int(options.steps or min(50 if repaint else 20, model.num_levels))


def sampler_of(options: argparse.Namespace) -> str:
    """A walk that must be walked back draws nothing; RePaint is made of ancestral steps; else the default."""
    from markovae.sampling.plans import DEFAULT_SAMPLER

    if options.sampler is not None:
        return str(options.sampler)
    if options.round_trip:
        return "dpmpp2m"
    return "ancestral" if options.mask is not None and options.method == "repaint" else DEFAULT_SAMPLER
