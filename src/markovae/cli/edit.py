"""`markovae edit`: one image inpainted, restored, varied, enlarged, led to another, or encoded and decoded."""

from __future__ import annotations

import argparse
from pathlib import Path

from markovae.cli.options import add_machine, add_run, add_seed, add_trust, one_of, whole
from markovae.cli.running import open_run, require_out, write_out
from markovae.cli.sampling_options import add_guidance, add_where, chosen_labels, chosen_prompts, chosen_where
from markovae.errors import UserError
from markovae.log import counted, log, show
from markovae.sampling.sampler_table import DEFAULT_SAMPLER, DEGRADATIONS, EDIT_METHODS

SUMMARY = "inpaint, restore, vary or enlarge an image with a run"
DESCRIPTION = """\
Edit one image with the model as prior. An image of another size is resized and cropped as in training. Give exactly
one of --mask, --degrade, --from-level, --to, --round-trip and --enlarge. The images go to the output folder, with
grid.png: the input first, then the draws. With a mask, each draw is also laid into a larger original. All rules:
docs/editing.md.
"""
EXAMPLES = """\
examples:
  markovae edit runs/a face.png --mask mask.png          # white, red or transparent: redrawn
  markovae edit runs/a face.png --degrade sr4            # super-resolution: shrink (or take a small image), restore
  markovae edit runs/a face.png --from-level 0.6         # image to image
  markovae edit runs/a face.png --to other.png           # from one image to another in --n steps
  markovae edit runs/a face.png --round-trip             # to noise and back, with the error
  markovae edit runs/large small.png --enlarge           # a cascade draws the details of an image of a stage's size
  markovae edit runs/text face.png --mask hair.png --prompt "a face with red hair"
  markovae edit runs/people face.png --from-level 0.6 --where age=70
"""
GAP = 2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `markovae edit`."""
    add_run(parser)
    parser.add_argument("image", metavar="IMAGE", help="an image file of any size")
    how = parser.add_mutually_exclusive_group(required=True)
    how.add_argument("--mask", metavar="FILE", help="inpaint what is white, red or transparent; keep the rest exactly")
    how.add_argument(
        "--degrade",
        metavar="HOW",
        type=one_of(*DEGRADATIONS),
        help=f"super-resolve or restore: IMAGE is degraded first, unless it already is: {', '.join(DEGRADATIONS)}",
    )
    how.add_argument(
        "--from-level", metavar="F", type=_share, help="variations: add noise up to level F·L (0 < F ≤ 1), then denoise"
    )
    how.add_argument("--to", metavar="IMAGE", help="interpolate to another image (see --level)")
    how.add_argument("--round-trip", action="store_true", help="encode it to noise and decode it again")
    how.add_argument("--enlarge", action="store_true", help="draw its details, by a cascade, up to the run's full size")
    parser.add_argument(
        "--level",
        metavar="F",
        type=_share,
        help="level F·L at which --to mixes the two (default: 0.5; for a cascade, of the base's levels)",
    )
    parser.add_argument("--n", metavar="N", type=whole(1), help="images to draw, with --to at least 2 (default: 4)")
    parser.add_argument(
        "--sampler",
        metavar="NAME",
        help=f"sampler (default: {DEFAULT_SAMPLER}; --round-trip dpmpp2m, RePaint ancestral)",
    )
    parser.add_argument(
        "--steps", metavar="N", type=whole(1), help="network evaluations (default: 20, RePaint 50, a cascade 64)"
    )
    add_seed(parser, "seed: draw i depends on it and on i")
    parser.add_argument("--class", metavar="K", dest="label", help="a class by name or number (default: none)")
    parser.add_argument(
        "--prompt", metavar="TEXT", action="append", help="what the image is to show (models of captions)"
    )
    add_where(parser, sweeps=False)
    parser.add_argument("--negative", metavar="TEXT", help="what --guidance leads away from (default: no caption)")
    add_guidance(parser)
    parser.add_argument(
        "--method",
        metavar="NAME",
        type=one_of(*EDIT_METHODS),
        help="method of --mask: moments (the default) or repaint",
    )
    parser.add_argument("--resampling", metavar="N", type=whole(1), help="resamplings of repaint (default: 10)")
    parser.add_argument(
        "--iterations", metavar="N", type=whole(1), help="iterations of the solver of moments (default: 5)"
    )
    parser.add_argument("--quick", action="store_true", help="moments without the network's derivative: rougher")
    parser.add_argument("--out", metavar="DIR", help="a new folder (default: one in RUN/edits)")
    add_trust(parser)
    add_machine(parser, batch=None, precision="float32 (the default), bfloat16 or float64")


def run(options: argparse.Namespace) -> int:
    """Edit; exit code 0.

    Raises:
        UserError: for files, sizes, classes or options that do not go together.
    """
    require_out(options)
    import numpy as np

    from markovae.data.pictures import png, readable, tile, viewable
    from markovae.sampling.editing import edit

    opened = open_run(options, trained_in=False)
    prompts, labels = chosen_prompts(opened, options), chosen_labels(opened, options.label)
    where, _ = chosen_where(opened, options.where)
    if len(prompts) > 1:
        raise UserError("--prompt is given twice: an edit shows one; join them, or edit once for each")
    names = "mask degrade from_level to round_trip enlarge level n sampler steps seed negative guidance method"
    data = opened.checkpoint.config.data
    made = edit(
        opened.model,
        options.image,
        fit=data.fit,
        background=data.background,
        labels=labels,
        prompt=prompts[0] if prompts else None,
        where=where,
        **{name: getattr(options, name) for name in (*names.split(), "resampling", "iterations", "quick")},
    )
    asked = {"class": options.label, "prompt": prompts[0] if prompts else None, "negative": options.negative}
    asked["where"] = "; ".join(options.where) if options.where else None
    facts = {
        "edit": made.name,
        "seed": str(options.seed),
        "checkpoint": opened.checkpoint.digest,
        "sampler": str(made.plan.sampler),
        "steps": str(made.plan.nfe),
        "guidance": f"{made.guidance.weight:g}",
        "precision": opened.precision,
        **{name: value for name, value in asked.items() if value is not None},
    }
    about = {f"markovae:{name}": value for name, value in facts.items()}
    given, drawn = viewable(made.given, 256), viewable(made.images, 256)
    # Two rows, the shorter filled up with white.
    columns = max(len(given), len(drawn))
    blank = np.full((columns, *drawn.shape[1:]), 255, np.uint8)
    rows = np.concatenate([given, blank[len(given) :], drawn, blank[len(drawn) :]])
    files = {f"{i:05d}.png": png(picture, {**about, "markovae:sample": str(i)}) for i, picture in enumerate(drawn)}
    files["grid.png"] = png(readable(tile(rows, columns, gap=GAP), rows), about)
    for note in made.notes:
        log(f"data: {note}")
    if made.has_original:
        for i in range(len(drawn)):
            files[f"{i:05d}-original.png"] = png(made.at_original(i), {**about, "markovae:sample": str(i)})
    target = write_out(files, options, opened.path, "edits", _folder_name(options))
    if made.error is not None:
        log(f"round trip: root mean square error {made.error:.2f} grey levels")
    show(f"{counted(len(drawn), 'image')} and grid.png are in {target}")
    if made.has_original and made.picture is not None:
        width, height = made.picture.size
        show(f"the same laid into the original of {width}x{height}: *-original.png")
    return 0


def _folder_name(options: argparse.Namespace) -> str:
    if options.mask is not None:
        how = f"mask-{options.method or 'moments'}"
    elif options.degrade is not None:
        how = options.degrade
    elif options.to is not None:
        how = f"to-{Path(options.to).stem}"
    else:
        how = "round-trip" if options.round_trip else "enlarged" if options.enlarge else f"level-{options.from_level:g}"
    return f"{Path(options.image).stem}-{how}-seed-{options.seed}"


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} must lie in (0, 1]: 0 is the image itself, 1 is noise")
    return value
