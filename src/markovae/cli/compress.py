"""`markovae compress`: images as a file whose length is the bound."""

from __future__ import annotations

import argparse
from pathlib import Path

from markovae.cli.options import add_json, whole
from markovae.errors import UserError
from markovae.log import log, show, show_json

SUMMARY = "compress images losslessly with a run's model"
DESCRIPTION = """\
Write images as one file whose length is the bound that `markovae measure` gives, bit for bit recoverable by
`markovae decompress` with the same run. Images must have the model's shape; nothing is resized.
"""
EXAMPLES = """\
examples:
  markovae compress photos32/ --model runs/photos --out photos.mvz
  markovae compress test.npz --model runs/photos --out test.mvz --levels 256 --group 64
  markovae decompress photos.mvz --model runs/photos --out restored/
"""
FIT_IMAGES = 512


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `markovae compress`."""
    parser.add_argument("images", metavar="IMAGES", nargs="+", help="image files, folders of them, or array files")
    parser.add_argument("--model", metavar="RUN", required=True, help="the run whose model codes")
    parser.add_argument("--out", metavar="FILE.mvz", required=True, help="a new file")
    parser.add_argument(
        "--levels", metavar="K", type=_levels, default=100, help="of the chain: K or all (default: 100)"
    )
    parser.add_argument("--group", metavar="G", type=whole(1), help="images decoded together (default: all)")
    parser.add_argument("--batch", metavar="B", type=whole(1), default=1, help="images side by side (default: 1)")
    parser.add_argument("--portable", action="store_true", help="decodable on other kinds of machine; slower")
    parser.add_argument("--no-verify", action="store_true", help="do not decode each group to compare")
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Compress and tell; exit code 0.

    Raises:
        UserError: for images that do not fit the model, or an --out that exists.
    """
    out = Path(options.out)
    if out.exists():
        raise UserError(f"--out {out} exists: name a new file")
    from markovae.checkpoints.reading import load_run
    from markovae.data.unchanged import read_unchanged
    from markovae.likelihood.codec import compress, describe
    from markovae.system.files import write_file

    loaded = load_run(options.model, device="cpu", precision="float32")
    images, names = read_unchanged(options.images, loaded.model.shape)
    data = compress(
        loaded.model,
        images,
        levels=None if options.levels == "all" else options.levels,
        group=options.group,
        batch=options.batch,
        fit=_training_images(loaded),
        names=names,
        portable=options.portable,
        verify=not options.no_verify,
        progress=True,
    )
    write_file(out, data)
    facts = describe(data)
    if options.json:
        show_json({"schema_version": 1, "out": str(out), **{name: facts[name] for name in REPORTED}})
    else:
        show(f"{out}: {facts['count']:,} images in {len(data):,} bytes, {facts['bits_per_dim']:.4f} bits/dim")
    return 0


REPORTED = ("count", "bytes", "bits_per_dim", "model", "shape", "bins", "batch", "portable", "precision", "threads")


def _levels(text: str) -> int | str:
    return text if text == "all" else whole(2)(text)


def _training_images(loaded):  # type: ignore[no-untyped-def]
    """Images to fit the reverse variance to, where the run's own is no fitted or learned one and they are at hand."""
    import numpy as np

    from markovae.data.loading import reopen
    from markovae.diffusion.reverse import PosteriorVariance, StepVariance

    if not isinstance(loaded.model.reverse, PosteriorVariance | StepVariance):
        return None
    try:
        record = loaded.checkpoint.split_record
        images = reopen(loaded.checkpoint.config.data, record).train.images
    except UserError as error:
        log(f"warning: the run's training images are not at hand, so the file will be longer: {error}")
        return None
    chosen = np.linspace(0, len(images) - 1, min(FIT_IMAGES, len(images))).round().astype(np.int64)
    return np.asarray(images[chosen])
