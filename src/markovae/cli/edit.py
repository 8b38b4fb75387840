"""`markovae edit`: one image inpainted, restored, varied, led to another, or encoded and decoded."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from markovae.cli.classes import chosen_label
from markovae.cli.options import add_machine, one_of, positive, whole
from markovae.cli.output import free_place
from markovae.errors import UserError
from markovae.log import show
from markovae.system.files import SYSTEM
from markovae.system.plain import require_plain

if TYPE_CHECKING:
    from markovae.cli.edit_work import Edit
    from markovae.cli.running import Opened
    from markovae.diffusion.model import Diffusion
    from markovae.networks.conditioning import Condition
    from markovae.sampling.guidance import Guidance

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
  markovae edit runs/text face.png --mask hair.png --prompt "a face with red hair"
"""
DEGRADATIONS = ("sr2", "sr4", "sr8", "blur", "grey")


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
    parser.add_argument("--level", metavar="F", type=_share, help="where --to mixes (default: 0.5)")
    parser.add_argument("--n", metavar="N", type=whole(1), help="images drawn, --to at least 2 (default: 4)")
    parser.add_argument(
        "--sampler", metavar="NAME", help="default: sde-dpmpp2m, for --round-trip dpmpp2m, for RePaint ancestral"
    )
    parser.add_argument("--steps", metavar="N", type=whole(1), help="network calls a walk (default: 20, RePaint 50)")
    parser.add_argument("--seed", metavar="N", type=int, default=0, help="draw i depends on seed and i (default: 0)")
    parser.add_argument("--class", metavar="K", dest="label", help="a class by name or number (default: none)")
    parser.add_argument(
        "--prompt", metavar="TEXT", action="append", help="what the image is to show, of a model of captions"
    )
    parser.add_argument("--negative", metavar="TEXT", help="what --guidance leads away from (default: no caption)")
    parser.add_argument(
        "--guidance",
        metavar="W",
        type=positive,
        help="towards the class or prompt; 1 is none (default: 1; 2 for a prompt)",
    )
    parser.add_argument(
        "--method",
        metavar="NAME",
        type=one_of("moments", "repaint"),
        help="of --mask: moments (the default) or repaint",
    )
    parser.add_argument("--resampling", metavar="N", type=whole(1), help="of repaint (default: 10)")
    parser.add_argument("--iterations", metavar="N", type=whole(1), help="of the solver of moments (default: 5)")
    parser.add_argument("--quick", action="store_true", help="moments without the network's derivative: rougher")
    parser.add_argument("--out", metavar="DIR", help="a new folder (default: one in RUN/edits)")
    add_machine(
        parser, batch="not used: the draws are one batch", precision="float32 (the default), bfloat16 or float64"
    )
    # `sample` has these, an edit does not.
    parser.set_defaults(prompts=None, autoguide=None, guidance_interval=None, autoguides=False)


def run(options: argparse.Namespace) -> int:
    """Edit; exit code 0.

    Raises:
        UserError: for files, sizes, classes or options that do not go together.
    """
    from markovae.cli.edit_files import write_pictures
    from markovae.cli.edit_work import edit_image
    from markovae.cli.running import open_run
    from markovae.cli.sample import require_free
    from markovae.log import log
    from markovae.sampling.generation import to_images

    _settle(options)
    if options.out is not None:
        require_free(Path(options.out))
    else:
        require_plain(Path(options.run_path))
    opened = open_run(options, trained_in=False)
    model = opened.model
    if model.pixels.bins != 256:
        raise UserError(f"this model's pixels have {model.pixels.bins} digits: edit takes images of 8 bits, 256")
    target = Path(options.out) if options.out else _default_folder(opened, options)
    condition, guidance = _asked(opened, options)
    made = edit_image(model, options, condition, guidance)
    drawn, given = to_images(model, made.drawn), to_images(model, made.given)
    facts = _facts(opened, made, options, guidance)
    disk = SYSTEM if options.out else SYSTEM.inside(opened.path)
    target = write_pictures(target, drawn, (given, drawn), facts, disk)
    if options.round_trip:
        log(f"round trip: root mean square error {_grey_levels(model, made):.2f} grey levels")
    show(f"{len(drawn)} image{'s' if len(drawn) > 1 else ''} and grid.png are in {target}")
    return 0


def _settle(options: argparse.Namespace) -> None:
    """Refuse what belongs to another way to edit, and fill in what was left out.

    Raises:
        UserError: naming the option and what it belongs to.
    """
    solved = (options.mask is not None and options.method != "repaint") or options.degrade is not None
    belongs = (
        ("level", options.to is not None, "--to"),
        ("n", not options.round_trip or options.n == 1, "an edit that draws, and --round-trip gives one image"),
        ("method", options.mask is not None, "--mask"),
        ("resampling", options.method == "repaint", "--method repaint"),
        ("iterations", solved, "--degrade, or to --mask by moments"),
        ("quick", solved, "--degrade, or to --mask by moments"),
    )
    for name, fits, what in belongs:
        if getattr(options, name) not in (None, False) and not fits:
            raise UserError(f"--{name} belongs to {what}: leave it out")
    if options.to is not None and options.n == 1:
        raise UserError("--n 1: --to shows both ends, so it needs 2 or more")
    for name, value in (("level", 0.5), ("n", 4), ("method", "moments"), ("resampling", 10), ("iterations", 5)):
        if getattr(options, name) is None:
            setattr(options, name, value)


def _asked(opened: Opened, options: argparse.Namespace) -> tuple[Condition | None, Guidance]:
    """The class or prompt that the edit is to show, (1,), and how strongly.

    Raises:
        UserError: for what the run does not know, or options that do not go together.
    """
    import torch

    from markovae.cli.prompts import chosen_prompts
    from markovae.cli.sampler import chosen_guidance
    from markovae.sampling.conditions import condition_for, prompt_condition

    prompts = chosen_prompts(opened, options)
    if len(prompts) > 1:
        raise UserError("--prompt is given twice: an edit shows one; join them, or edit once for each")
    guidance, _ = chosen_guidance(opened, options, prompts)
    if prompts:
        return prompt_condition(opened.model, prompts), guidance
    label = _label(opened, options.label)
    return condition_for(opened.model, None if label is None else torch.tensor([label])), guidance


def _facts(opened: Opened, made: Edit, options: argparse.Namespace, guidance: Guidance) -> dict[str, str]:
    """What every picture says of itself."""
    from markovae.cli.edit_work import calls_of, sampler_of

    asked = {"class": options.label, "prompt": options.prompt and options.prompt[0], "negative": options.negative}
    return {
        "edit": made.name,
        "seed": str(options.seed),
        "checkpoint": opened.checkpoint.digest,
        "sampler": sampler_of(options),
        "steps": str(calls_of(opened.model, options)),
        "guidance": f"{guidance.weight:g}",
        "precision": opened.precision,
        **{name: value for name, value in asked.items() if value is not None},
    }


def _grey_levels(model: Diffusion, made: Edit) -> float:
    error = (made.drawn.double() - made.given.double()).square().mean().sqrt()
    return float(error) / (2 * model.pixels.half_width)


def _label(opened: Opened, text: str | None) -> int | None:
    """The class that is asked for; without one the network's learned null, where it was learned.

    Raises:
        UserError: for an unknown class, or none where the run never trained without.
    """
    if text is not None and (text != "none" or text in opened.checkpoint.class_names):
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
    return free_place(opened.path / "edits", f"{Path(options.image).stem}-{how}-seed-{options.seed}")


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} must lie in (0, 1]: 0 is the image itself, 1 is noise")
    return value
