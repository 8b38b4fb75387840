"""Compressed bytes beside the bound of the same images and levels, and beside PNG, WebP and JPEG XL.

    python benchmarks/codec.py tests/fixtures/reference --images 1000 --levels 32 --decode 16
    python benchmarks/codec.py tests/fixtures/reference --images 192 --group 64 --out docs/results/codec.json
    python benchmarks/codec.py RUN --images 1000 --levels 64 --grid optimal
    python benchmarks/codec.py RUN --images 128 --curve 8 16 32 64 128 256 1000

The first images of the run's test part, with their classes; of runs of the embedded faces, faces that none was trained
on. The variance is fitted to other images. Beside the bound stands what the images cost along the very paths that were
coded, by the Gaussians themselves: what a file is longer than that is the codec's own, without noise of any draw. Every
record of `--out` is kept, so that runs with other options add theirs. A curve is of bytes against time: for each number
of levels the bound of all images, and the time of a few that are coded. With `--file` the compressed images are kept
there, and the same command once more measures and decodes: two halves of a long run. JPEG XL needs the package
pillow-jxl-plugin.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import markovae as mv
from machine import processor
from markovae.checkpoints.reading import LoadedRun, load_run
from markovae.compression.bit_stack import BitStack
from markovae.compression.codec import CodecSettings, GroupEncoder, compress, decompress, describe, reveal
from markovae.compression.lattice import IntegerDistribution, RoundedGaussian
from markovae.compression.mvz_format import RECORD, read_mvz
from markovae.compression.plain_image import joined, plain_code
from markovae.data.faceset import render
from markovae.data.loading import reopen
from markovae.likelihood.evaluation_data import labels_for
from markovae.likelihood.measuring import prepare
from markovae.likelihood.method import Method
from markovae.likelihood.statistics import collect_level_statistics, rate_distortion

UNSEEN, FITTED_ON = 20_000, 30_000  # numbers of faces beyond every split
TIMED = 8  # images that a curve codes
FORMATS: dict[str, dict[str, Any]] = {
    "PNG": {"optimize": True},
    "WEBP": {"lossless": True, "quality": 100, "method": 6, "exact": True},
    "JXL": {"lossless": True, "effort": 9},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run")
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--levels", type=int, default=32)
    parser.add_argument("--grid", default="even")
    parser.add_argument("--group", type=int)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--fit", type=int, default=256)
    parser.add_argument("--decode", type=int, help="images of which a file of their own is decoded (default: all)")
    parser.add_argument("--replicates", type=int, default=2, help="passes over all levels for the bound")
    parser.add_argument("--portable", action="store_true")
    parser.add_argument("--progressive", type=int, default=0, help="images that are also decoded in part")
    parser.add_argument("--curve", type=int, nargs="+", metavar="K", help="the bound and the time at numbers of levels")
    parser.add_argument("--draws", type=int, default=32, help="levels drawn per image for the curve (default: 32)")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--file", type=Path, help="written, and the rest left to a second call, or read where it is")
    parser.add_argument("--name", help="of the data, for the record (default: as the run has it)")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    opened = load_run(options.run, device="cpu", precision="float32")
    model, (images, labels), fitted = opened.model, *subject(opened, options)
    if options.curve:
        keep(
            options,
            about(opened, options) | {"dims": model.dims, "curve": curve(model, images, labels, fitted, options)},
        )
        return
    how = {"levels": options.levels, "grid": options.grid}
    coding = how | {name: getattr(options, name) for name in ("group", "batch", "portable")}
    if options.file is None or not options.file.exists():
        data, times = encoded(GroupEncoder(model, images, labels, (), fitted, CodecSettings(verify=False, **coding)))
        if options.file is not None:
            options.file.write_bytes(data)
            options.file.with_suffix(".json").write_text(json.dumps(times))
            print(json.dumps({"bytes": len(data), **times}))
            return
    else:
        data, times = options.file.read_bytes(), json.loads(options.file.with_suffix(".json").read_text())
    facts = describe(data)
    fit = {"fit": fitted[0], "fit_labels": fitted[1]}
    some, known = images[: options.decode], None if labels is None else labels[: options.decode]
    part = data if len(some) == len(images) else compress(model, some, known, verify=False, **fit, **coding)
    began = time.perf_counter()
    assert np.array_equal(decompress(model, part), some)
    decoding = time.perf_counter() - began
    measured = {"draws": None, "replicates": options.replicates, "variance": "isotropic"} | how | fit
    found = mv.measure(model, images, labels, **measured)
    bound = found.bits_per_dim
    bits, coded, decoded = facts["bits_per_dim"], chained(facts), chained(describe(part))
    row = {
        **about(opened, options),
        **how,
        **{name: getattr(options, name) for name in ("group", "batch", "portable")},
        "bytes": len(data),
        "bits_per_dim": bits,
        "bound": bound.value,
        "bound_stderr": bound.stderr,
        "bound_noise": found.noise_nats.stderr / (model.dims * math.log(2)) if options.replicates > 1 else None,
        "over_the_bound": bits / bound.value - 1,
        "parts": parts(data, images, model.pixels.bins, found.total / (8 * math.log(2)), times["path_bytes"]),
        "decoded": len(some),
        "images_per_second": {"encoding": coded / times["seconds"], "decoding": decoded / decoding},
        "images_per_cpu_second": {"encoding": coded / times["cpu_seconds"]},
        "share_of_time_in_the_network": times["network_cpu_seconds"] / times["cpu_seconds"],
        "weights": {"number": sum(p.numel() for p in model.network.parameters()), "bytes": weight_bytes(opened)},
        "bytes_of": {"raw": images.size, **others(images)},
    }
    if options.progressive:
        row["progressive"] = progressive(model, images[: options.progressive], fitted[0], how)
    keep(options, row)


def chained(facts: dict[str, Any]) -> int:
    """Images of a file that the model codes."""
    return sum(group["images"] - group["plain_images"] for group in facts["groups"])


def about(opened: LoadedRun, options: argparse.Namespace) -> dict[str, Any]:
    """Of what and where a record is."""
    data = options.name or opened.checkpoint.config.data.source
    return {"processor": processor(), "threads": options.threads, "data": data, "images": options.images}


def keep(options: argparse.Namespace, row: dict[str, Any]) -> None:
    """Print a record, and add it to those of the file."""
    print(json.dumps(row, indent=1), flush=True)
    if options.out:
        rows = json.loads(options.out.read_text()) if options.out.exists() else []
        options.out.write_text(json.dumps([*rows, row], indent=1) + "\n")


def curve(
    model: Any, images: Any, labels: Any, fitted: tuple[Any, Any], options: argparse.Namespace
) -> list[dict[str, Any]]:
    """For each number of levels: the bound of all images by drawn levels, and the processor time of a coded image."""
    rows, few = [], None if labels is None else labels[:TIMED]
    for levels in options.curve:
        how = {"levels": levels, "grid": options.grid if levels < model.num_levels else "even"}
        settings = CodecSettings(verify=False, group=None, batch=options.batch, **how)
        data, times = encoded(GroupEncoder(model, images[:TIMED], few, (), fitted, settings))
        coded = chained(describe(data))
        found = mv.measure(
            model, images, labels, draws=options.draws, variance="isotropic", fit=fitted[0], fit_labels=fitted[1], **how
        )
        bound, seconds = found.bits_per_dim, times["cpu_seconds"] / coded
        rows.append(
            {**how, "bits_per_dim": bound.value, "stderr": bound.stderr, "cpu_seconds": seconds, "coded": coded}
        )
    return rows


def subject(opened: LoadedRun, options: argparse.Namespace) -> tuple[tuple[Any, Any], tuple[Any, Any]]:
    """(images to compress, their labels), and the same of images to fit the variance to."""
    config = opened.checkpoint.config.data
    if config.source == "faces":
        starts = (UNSEEN, options.images), (FITTED_ON, options.fit)
        many = [np.stack([render(i, opened.model.shape[1]) for i in range(at, at + count)]) for at, count in starts]
        return (many[0], None), (many[1], None)
    kept = reopen(config, opened.checkpoint.split_record)
    test = kept.test.take(slice(0, options.images))
    train = kept.train.take(np.linspace(0, len(kept.train) - 1, options.fit).round().astype(np.int64))
    pairs = [(np.asarray(data.images), labels_for(opened, data)) for data in (test, train)]
    return pairs[0], pairs[1]


def encoded(encoder: GroupEncoder) -> tuple[bytes, dict[str, float]]:
    """The file, and what it took: seconds, and of the processor those of this process and of its network; and what
    the coded images cost along their paths.
    """
    path, network = PathLength(), Timed(encoder.network)
    began, busy = time.perf_counter(), time.process_time()
    with path:
        records = [encoder.record(number, iter(())) for number in range(encoder.header.num_groups)]
    busy = time.process_time() - busy - path.seconds
    times = {
        "seconds": time.perf_counter() - began - path.seconds,
        "cpu_seconds": busy,
        "network_cpu_seconds": network.seconds,
        "path_bytes": path.bits / 8,
    }
    return encoder.header.to_bytes() + b"".join(records), times


class PathLength:
    """While it lasts: −log₂ of the Gaussians' own densities at what stacks are pushed, less what they pop.

    On a grid of one width densities take the place of probabilities, for each latent is popped once and pushed once. A
    stack that ran out, and is begun anew with more plain images, is not counted. Its own time is kept, to be taken off.
    """

    def __init__(self) -> None:
        self.bits = self.seconds = 0.0
        self._kept = {name: getattr(BitStack, name) for name in ("push", "pop_noise", "words")}

    def __enter__(self) -> None:
        kept = self._kept

        def push(stack: Any, pmf: IntegerDistribution, values: Any, mean: Any) -> None:
            kept["push"](stack, pmf, values, mean)
            self._add(stack, pmf, values.ravel(), mean.ravel(), 1)

        def pop_noise(stack: Any, pmf: IntegerDistribution, mean: Any, key: tuple[int, int]) -> Any:
            values = kept["pop_noise"](stack, pmf, mean, key)
            self._add(stack, pmf, values.ravel(), mean.ravel(), -1)
            return values

        def words(stack: Any, borrowed: bool) -> Any:
            self.bits += getattr(stack, "path_bits", 0.0)
            return kept["words"](stack, borrowed)

        for change in (push, pop_noise, words):
            setattr(BitStack, change.__name__, change)

    def __exit__(self, *error: object) -> None:
        for name, method in self._kept.items():
            setattr(BitStack, name, method)

    def _add(self, stack: Any, pmf: Any, values: Any, mean: Any, sign: int) -> None:
        began, std = time.process_time(), pmf._std
        if isinstance(pmf, RoundedGaussian):
            nats = -rounded(values, mean, std, pmf._bins).clamp_min(1e-300).log().sum()
        else:
            nats = (np.square((values - mean) / std) / 2 + np.log(std * math.sqrt(2 * math.pi))).sum()
        stack.path_bits = getattr(stack, "path_bits", 0.0) + sign * float(nats) / math.log(2)
        self.seconds += time.process_time() - began


def rounded(values: Any, mean: Any, std: Any, bins: int) -> torch.Tensor:
    """P(k) of `RoundedGaussian`, (N,)."""
    lower = torch.from_numpy(np.where(values <= 0, -np.inf, (values - 0.5 - mean) / std))
    upper = torch.from_numpy(np.where(values >= bins - 1, np.inf, (values + 0.5 - mean) / std))
    far = lower > 0  # the other tail is the exact one
    low, high = torch.where(far, -upper, lower), torch.where(far, -lower, upper)
    return torch.special.ndtr(high) - torch.special.ndtr(low)


def parts(data: bytes, images: Any, bins: int, bound: Any, path_bytes: float) -> dict[str, Any]:
    """Of what a file consists, in bytes, and by how much the chained images are longer than their paths.

    Args:
        bound: of each image, bytes, (n,).
    """
    file = read_mvz(data)
    header, plain, codes, side = file.header, [], 0, 0
    for number in range(header.num_groups):
        places = [number * header.group + place for place in file.record(number).plain]
        plain += places
        codes += 4 * len(joined([plain_code(images[place], bins) for place in places]))
        side += RECORD.unpack_from(data, file.edges[number])[0]
    groups = RECORD.size * header.num_groups
    chained = len(data) - file.edges[0] - groups - side - codes
    return {
        "header": file.edges[0],
        "groups": groups,
        "side": side,
        "plain_images": len(plain),
        "plain": codes,
        "plain_by_the_bound": float(bound[plain].sum()),
        "chained": chained,
        "chained_by_their_paths": path_bytes,
        "chained_by_the_bound": float(bound.sum() - bound[plain].sum()),
    }


def weight_bytes(opened: LoadedRun) -> int:
    """Of the file of averaged weights, as it lies in the run."""
    found = sorted(Path(opened.path).rglob("ema.safetensors"))
    return found[-1].stat().st_size


def progressive(model: Any, images: np.ndarray, fit: np.ndarray, how: dict[str, Any]) -> list[dict[str, float]]:
    """Real bytes and the report's nats by which each level of these images is known, and how good x̂ is there."""
    data = compress(model, images, progressive=True, verify=False, fit=fit, **how)
    views = [list(reveal(model, data, number)) for number in range(len(images))]
    ready = prepare(model, Method(variance="isotropic", **how), fit).model
    curve = rate_distortion(ready, collect_level_statistics(ready, images, knots=None, per_image=ready.num_levels))
    rows = []
    for k, point in enumerate(curve):
        at = [view[k] for view in views]
        wrong = [np.square(view.images[0] - image.astype(float)).mean() for view, image in zip(at, images, strict=True)]
        rows.append(
            {
                "level": at[0].level,
                "bytes": float(np.mean([4 * view.words for view in at])),
                "rmse": float(np.sqrt(np.mean(wrong))),
                "expected_bytes": point.rate_bits_per_dim * model.dims / 8,
                "expected_rmse": point.rmse,
            }
        )
    return rows


class Timed:
    """Processor seconds spent in a network: those of the clock would count whoever shares the machine."""

    def __init__(self, network: torch.nn.Module) -> None:
        self.seconds = self._began = 0.0
        network.register_forward_pre_hook(self._begin)
        network.register_forward_hook(self._end)

    def _begin(self, *call: object) -> None:
        self._began = time.process_time()

    def _end(self, *call: object) -> None:
        self.seconds += time.process_time() - self._began


def others(images: np.ndarray) -> dict[str, Any]:
    """Bytes of other lossless formats: a file an image, and all in one file, one below another."""
    try:
        import pillow_jxl  # noqa: F401 - it makes itself known to pillow
    except ImportError:
        print("without JPEG XL: the package pillow-jxl-plugin is missing")
    Image.init()
    kinds = {kind: options for kind, options in FORMATS.items() if kind in Image.SAVE}
    pictures = images.transpose(0, 2, 3, 1)
    columns = math.ceil(math.sqrt(len(pictures)))
    filled = np.concatenate([pictures, pictures[:1].repeat(-len(pictures) % columns, 0)])
    sheet = np.concatenate([np.concatenate(list(row), 1) for row in filled.reshape(-1, columns, *pictures.shape[1:])])
    each = {kind: sum(saved(picture, kind, options) for picture in pictures) for kind, options in kinds.items()}
    return {"one_file_each": each, "all_in_one": {kind: saved(sheet, kind, options) for kind, options in kinds.items()}}


def saved(picture: np.ndarray, kind: str, options: dict[str, Any]) -> int:
    buffer = io.BytesIO()
    Image.fromarray(picture.squeeze(-1) if picture.shape[-1] == 1 else picture).save(buffer, kind, **options)
    return len(buffer.getvalue())


if __name__ == "__main__":
    main()
