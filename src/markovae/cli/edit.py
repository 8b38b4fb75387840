"""`markovae edit`: one image inpainted, restored, varied, led to another, or encoded and decoded."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from markovae.cli.classes import chosen_label
from markovae.cli.options import add_machine, one_of, whole
from markovae.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from markovae.cli.running import Opened
    from markovae.diffusion import Diffusion
    from markovae.sampling.control import Editor, LinearOperator

SUMMARY = "inpaint, restore or vary an image with a run"
DESCRIPTION = """\
Edit one image of the model's size with the model as prior. Exactly one of --mask, --degrade, --from-level, --to and
--round-trip says how. The images go to the output folder, with grid.png: what was given first, then the draws.
"""
EXAMPLES = """\
examples:
  markovae edit runs/a face.png --mask mask.png          white pixels of the mask are drawn anew
  markovae edit runs/a face.png --degrade sr4            shrunk four times and restored; a small image is restored
  markovae edit runs/a face.png --from-level 0.6         image to image
  markovae edit runs/a face.png --to other.png           from one image to another in --n steps
  markovae edit runs/a face.png --round-trip             to noise and back, with the error
"""
DEGRADATIONS = ("sr2", "sr4", "sr8", "blur", "grey")
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


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `markovae edit`."""
    parser.add_argument("run_path", metavar="RUN", help="a run's folder, or one of its checkpoints")
    parser.add_argument("image", metavar="IMAGE", help="an image of the model's size")
    how = parser.add_mutually_exclusive_group(required=True)
    how.add_argument("--mask", metavar="FILE", help="inpaint: white pixels are drawn anew, black ones are kept exactly")
    how.add_argument("--degrade", metavar="HOW", type=one_of(*DEGRADATIONS), help=", ".join(DEGRADATIONS))
    how.add_argument("--from-level", metavar="F", type=_share, help="noise it to level F·L, in (0, 1], and draw again")
    how.add_argument("--to", metavar="IMAGE", help="interpolate to another image (see --level)")
    how.add_argument("--round-trip", action="store_true", help="encode it to noise and decode it again")
    parser.add_argument("--level", metavar="F", type=_share, default=0.5, help="where --to mixes (default: 0.5)")
    parser.add_argument("--n", metavar="N", type=whole(1), default=4, help="images drawn (default: 4)")
    parser.add_argument(
        "--sampler", metavar="NAME", help="default: sde-dpmpp2m, for --round-trip dpmpp2m, for RePaint ancestral"
    )
    parser.add_argument("--steps", metavar="N", type=whole(1), help="network calls a walk (default: 20, RePaint 50)")
    parser.add_argument("--seed", metavar="N", type=int, default=0, help="draw i depends on seed and i (default: 0)")
    parser.add_argument("--class", metavar="K", dest="label", help="a class by name or number (default: none)")
    parser.add_argument("--guidance", metavar="W", type=float, default=1.0, help="towards the class (default: 1, none)")
    parser.add_argument("--method", type=one_of("moments", "repaint"), default="moments", help="of --mask")
    parser.add_argument("--resampling", metavar="N", type=whole(1), default=10, help="of repaint (default: 10)")
    parser.add_argument("--iterations", metavar="N", type=whole(1), default=5, help="of the solver (default: 5)")
    parser.add_argument("--quick", action="store_true", help="moments without the network's derivative: rougher")
    parser.add_argument("--out", metavar="DIR", help="a new folder (default: one in RUN/edits)")
    add_machine(
        parser, batch="not used: the draws are one batch", precision="float32 (the default), bfloat16 or float64"
    )


def run(options: argparse.Namespace) -> int:
    """Edit; exit code 0.

    Raises:
        UserError: for files, sizes, classes or options that do not go together.
    """
    from markovae.cli.edit_files import write_pictures
    from markovae.cli.running import open_run
    from markovae.console import say
    from markovae.sampling import to_images

    opened = open_run(options, trained_in=False)
    model = opened.model
    if model.pixels.bins != 256:
        raise UserError(f"this model's pixels have {model.pixels.bins} digits: edit takes images of 8 bits, 256")
    target = Path(options.out) if options.out else _default_folder(opened, options)
    made = edit_image(model, options, _label(opened, options.label))
    drawn, given = to_images(model, made.drawn), to_images(model, made.given)
    facts = _facts(opened, made, options)
    write_pictures(target, drawn, (given, drawn), facts)
    if options.round_trip:
        say(f"round trip: root mean square error {_grey_levels(model, made):.2f} grey levels")
    say(f"{len(drawn)} images and grid.png are in {target}")
    return 0


def edit_image(model: Diffusion, options: argparse.Namespace, label: int | None = None) -> Edit:
    """The edit that the options ask for.

    Raises:
        UserError: for files, sizes or options that do not go together.
    """
    import torch

    from markovae.sampling import Guidance, plan
    from markovae.sampling.control import Editor
    from markovae.sampling.draw import condition_for, guided

    repaint = options.mask is not None and options.method == "repaint"
    chosen = plan(model, _sampler(options), _steps(model, options, repaint))
    count = 1 if options.round_trip else max(options.n, 2) if options.to else options.n
    condition = condition_for(model, None if label is None else torch.full((count,), label))
    denoiser = guided(model, condition, Guidance(options.guidance))
    editor = Editor(model, chosen, options.seed, None if condition is None else condition.to(model.device), denoiser)
    if options.degrade is not None:
        return _restore(editor, options)
    x = _read(model, options.image)
    if options.mask is not None:
        return _inpaint(editor, options, x)
    if options.to is not None:
        other = _read(model, options.to)
        return Edit(editor.interpolate(x[0], other[0], count, options.level), torch.cat([x, other]), "interpolation")
    if options.round_trip:
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
    from markovae.sampling.control import Observation

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
    from markovae.sampling.control import Blur, BoxDown, Grey

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
    from markovae.sampling.control import FullCovariance, IsotropicCovariance

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


def _steps(model: Diffusion, options: argparse.Namespace, repaint: bool) -> int:
    return int(options.steps or min(50 if repaint else 20, model.num_levels))


def _sampler(options: argparse.Namespace) -> str:
    """A walk that must be walked back draws nothing; RePaint is made of ancestral steps; else the default."""
    from markovae.sampling import DEFAULT_SAMPLER

    if options.sampler is not None:
        return str(options.sampler)
    if options.round_trip:
        return "dpmpp2m"
    return "ancestral" if options.mask is not None and options.method == "repaint" else DEFAULT_SAMPLER


def _facts(opened: Opened, made: Edit, options: argparse.Namespace) -> dict[str, str]:
    """What every picture says of itself."""
    repaint = options.mask is not None and options.method == "repaint"
    facts = {
        "edit": made.name,
        "seed": str(options.seed),
        "checkpoint": opened.checkpoint.digest,
        "sampler": _sampler(options),
        "steps": str(_steps(opened.model, options, repaint)),
        "guidance": f"{options.guidance:g}",
        "precision": opened.precision,
    }
    return facts if options.label is None else {**facts, "class": options.label}


def _grey_levels(model: Diffusion, made: Edit) -> float:
    error = (made.drawn.double() - made.given.double()).square().mean().sqrt()
    return float(error) / (2 * model.pixels.half_width)


def _label(opened: Opened, text: str | None) -> int | None:
    """The class that is asked for; without one the network's learned null, where it was learned.

    Raises:
        UserError: for an unknown class, or none where the run never trained without.
    """
    if text is not None:
        return chosen_label(opened, text)
    if opened.num_classes and not opened.checkpoint.config.train.label_dropout:
        raise UserError("--class is missing: this run never trained without classes (train.label_dropout=0); name one")
    return None


def _default_folder(opened: Opened, options: argparse.Namespace) -> Path:
    if options.mask is not None:
        how = f"mask-{options.method}"
    elif options.degrade is not None:
        how = options.degrade
    elif options.to is not None:
        how = f"to-{Path(options.to).stem}"
    else:
        how = "round-trip" if options.round_trip else f"level-{options.from_level:g}"
    return opened.path / "edits" / f"{Path(options.image).stem}-{how}-seed-{options.seed}"


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} must lie in (0, 1]: 0 is the image itself, 1 is noise")
    return value
