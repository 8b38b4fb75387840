"""`markovae compress`: images as a file whose length is the bound."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from markovae.cli.options import add_json, add_trust, one_of, whole
from markovae.errors import UserError
from markovae.likelihood.method import GRIDS
from markovae.log import counted, log, show, show_json, warn
from markovae.system.processes import current_rank

SUMMARY = "compress images losslessly with a run's model"
DESCRIPTION = """\
Compress images losslessly into one file of about the length that `markovae measure` gives; `markovae decompress`
restores them bit for bit with the same run. Images must have the model's shape; nothing is resized. After an
interruption the same command continues.
"""
EXAMPLES = """\
examples:
  markovae compress photos32/ --model runs/photos --out photos.mvz
  markovae compress test.npz --model runs/photos --out test.mvz --levels 256 --group all
  markovae compress face.png --model runs/faces --out face.mvz --progressive   # decoded in part by --stop-after
  torchrun --nproc-per-node 2 -m markovae compress photos32/ --model runs/photos --out photos.mvz
  markovae decompress photos.mvz --model runs/photos --out restored/
"""
FIT_IMAGES = 128
LEVELS, GROUP = 100, 256  # as `CodecSettings` has them


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `markovae compress`."""
    parser.add_argument("images", metavar="IMAGES", nargs="+", help="image files, folders of them, or array files")
    parser.add_argument("--model", metavar="RUN", required=True, help="the run whose model compresses")
    parser.add_argument("--out", metavar="FILE.mvz", required=True, type=Path, help="a new file")
    parser.add_argument(
        "--levels",
        metavar="K",
        type=_or_all(2),
        default=LEVELS,
        help=f"levels of the chain to code with, or all (default: {LEVELS})",
    )
    parser.add_argument(
        "--grid",
        metavar="NAME",
        type=one_of(*GRIDS),
        default="even",
        help="which K: even (default: even strides), or optimal (the least bound, fitted to training images)",
    )
    parser.add_argument(
        "--group",
        metavar="G",
        type=_or_all(1),
        default=GROUP,
        help=f"images decoded together, or all (default: {GROUP}); small groups make longer files",
    )
    parser.add_argument(
        "--batch",
        metavar="B",
        type=whole(1),
        default=1,
        help="images coded side by side (default: 1): faster, and longer",
    )
    parser.add_argument("--portable", action="store_true", help="make it decodable on other kinds of machine: slower")
    parser.add_argument(
        "--progressive",
        action="store_true",
        help="make each image decodable by itself and in part (--stop-after): longer",
    )
    parser.add_argument("--unconditional", action="store_true", help="leave classes and captions out")
    parser.add_argument("--no-verify", action="store_true", help="do not decode each group to compare")
    add_json(parser)
    add_trust(parser)


def run(options: argparse.Namespace) -> int:
    """Compress and tell; exit code 0.

    Raises:
        UserError: for images that do not fit the model, or an --out that exists.
    """
    rank = current_rank()
    if rank.alone and options.out.exists():  # of several processes another may have written it by now
        raise UserError(f"--out {options.out} exists: name a new file")
    from markovae.checkpoints.reading import load_run
    from markovae.compression.codec import CodecSettings, GroupEncoder, describe
    from markovae.compression.finished_groups import write_mvz
    from markovae.compression.mvz_format import open_mvz
    from markovae.data.unchanged import read_unchanged

    loaded = load_run(options.model, device="cpu", precision="float32", trust=options.trust)
    images = read_unchanged(options.images, loaded.model.shape)
    labels = None if options.unconditional else _labels(loaded, images)
    settings = CodecSettings(
        levels=None if options.levels == "all" else options.levels,
        grid=options.grid,
        group=None if options.group == "all" else options.group,
        batch=options.batch,
        portable=options.portable,
        progressive=options.progressive,
        verify=not options.no_verify,
    )
    fit = _training_images(loaded, options, conditional=labels is not None)
    names = images.names if any(images.names) else ()
    encoder = GroupEncoder(loaded.model, images, labels, names, fit, settings)
    size = write_mvz(options.out, encoder, rank)
    if size is None:
        log("this process's groups are finished; the process that ends last writes the file")
        return 0
    facts = describe(open_mvz(options.out))
    if options.json:
        show_json({"schema_version": 1, "out": str(options.out), **{name: facts[name] for name in REPORTED}})
    else:
        what = counted(facts["count"], "image")
        show(f"{options.out}: {what} in {size:,} bytes, {facts['bits_per_dim']:.4f} bits/dim")
    return 0


REPORTED = ("count", "bytes", "bits_per_dim", "model", "shape", "bins", "batch", "portable", "precision", "threads")


def _or_all(minimum: int) -> Callable[[str], int | str]:
    return lambda text: text if text == "all" else whole(minimum)(text)


def _labels(loaded: Any, images: Any) -> Any:
    """What the model is given of the images: their classes, or captions, where it takes them and all have some."""
    if loaded.model.columns is not None:
        log(f"images are coded without their columns ({', '.join(loaded.model.columns.names)})")
    if loaded.model.text_conditioner is not None:
        if images.captions is None:
            return None
        from markovae.text.conditioner import captions_of

        return [next(iter(captions_of(text)), "") for text in images.captions]
    if not loaded.num_classes or images.classes is None:
        return None
    names = list(loaded.checkpoint.class_names)
    unknown = sorted(set(images.classes) - set(names))
    if unknown:
        raise UserError(
            f"the images have a class {unknown[0]!r} and {loaded.path} only {', '.join(names[:12])}: rename "
            "its folder, or leave classes out with --unconditional"
        )
    return [names.index(name) for name in images.classes]


def _training_images(loaded: Any, options: argparse.Namespace, conditional: bool) -> tuple[Any, Any]:
    """Images to fit the reverse variance to, and their labels, where the run's own is not fitted and they are there."""
    import numpy as np

    from markovae.data.loading import reopen
    from markovae.diffusion.reverse import PosteriorVariance, StepVariance
    from markovae.text.conditioner import attach_conditioning

    if options.grid == "even" and not isinstance(loaded.model.reverse, PosteriorVariance | StepVariance):
        return None, None
    try:
        record = loaded.checkpoint.split_record
        data = reopen(loaded.checkpoint.config.data, record).train
    except UserError as error:
        if options.grid != "even":
            raise
        warn(f"the run's training images are not at hand, so the file will be longer: {error}")
        return None, None
    chosen = np.linspace(0, len(data) - 1, min(FIT_IMAGES, len(data))).round().astype(np.int64)
    log(f"fitting the variance to {len(chosen):,} of the run's training images")
    data = attach_conditioning(loaded.model, data.take(chosen), held_out=True)
    return np.asarray(data.images), data.known if conditional else None
