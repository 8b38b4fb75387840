"""Compressed bytes beside the bound of the same images and levels, and beside PNG, WebP and JPEG XL.

    python benchmarks/codec.py tests/fixtures/reference --images 1000 --levels 32 --batch 2 --decode 16
    python benchmarks/codec.py tests/fixtures/reference --images 192 --group 64 --out docs/results/codec.json

The images are faces that no run was trained on; the variance is fitted to other faces. Every
record of `--out` is kept, so that runs with other options add theirs. With `--file` the compressed images are kept
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
from markovae.compression.codec import CodecSettings, GroupEncoder, compress, decompress, describe, reveal
from markovae.data.faceset import render
from markovae.likelihood.measuring import prepare
from markovae.likelihood.method import Method
from markovae.likelihood.statistics import collect_level_statistics, rate_distortion

UNSEEN, FITTED_ON = 20_000, 30_000  # numbers of faces beyond every split
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
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--file", type=Path, help="written, and the rest left to a second call, or read where it is")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model = mv.load(options.run)
    side = model.shape[1]
    images = np.stack([render(i, side) for i in range(UNSEEN, UNSEEN + options.images)])
    fit = np.stack([render(i, side) for i in range(FITTED_ON, FITTED_ON + options.fit)])
    how = {"levels": options.levels, "grid": options.grid}
    coding = how | {name: getattr(options, name) for name in ("group", "batch", "portable")}
    if options.file is None or not options.file.exists():
        data, times = encoded(GroupEncoder(model, images, None, (), (fit, None), CodecSettings(verify=False, **coding)))
        if options.file is not None:
            options.file.write_bytes(data)
            options.file.with_suffix(".json").write_text(json.dumps(times))
            print(json.dumps({"bytes": len(data), **times}))
            return
    else:
        data, times = options.file.read_bytes(), json.loads(options.file.with_suffix(".json").read_text())
    facts = describe(data)
    some = images[: options.decode]
    part = data if len(some) == len(images) else compress(model, some, fit=fit, verify=False, **coding)
    began = time.perf_counter()
    assert np.array_equal(decompress(model, part), some)
    decoding = time.perf_counter() - began
    found = mv.measure(model, images, draws=None, replicates=options.replicates, variance="isotropic", fit=fit, **how)
    bound = found.bits_per_dim
    bits = facts["bits_per_dim"]
    row = {
        "processor": processor(),
        **{
            name: getattr(options, name)
            for name in ("images", "levels", "grid", "group", "batch", "portable", "threads")
        },
        "bytes": len(data),
        "header_bytes": facts["header_bytes"],
        "plain_images": [group["plain_images"] for group in facts["groups"]],
        "bits_per_dim": bits,
        "bound": bound.value,
        "bound_stderr": bound.stderr,
        "bound_noise": found.noise_nats.stderr / (model.dims * math.log(2)) if options.replicates > 1 else None,
        "over_the_bound": bits / bound.value - 1,
        "images_per_second": {"encoding": len(images) / times["seconds"], "decoding": len(some) / decoding},
        "images_per_cpu_second": {"encoding": len(images) / times["cpu_seconds"]},
        "share_of_time_in_the_network": times["network_cpu_seconds"] / times["cpu_seconds"],
        "bytes_of": {"raw": images.size, **others(images)},
    }
    if options.progressive:
        row["progressive"] = progressive(model, images[: options.progressive], fit, how)
    print(json.dumps(row, indent=1), flush=True)
    if options.out:
        rows = json.loads(options.out.read_text()) if options.out.exists() else []
        options.out.write_text(json.dumps([*rows, row], indent=1) + "\n")


def encoded(encoder: GroupEncoder) -> tuple[bytes, dict[str, float]]:
    """The file, and what it took: seconds, and of the processor those of this process and of its network."""
    network, began, busy = Timed(encoder.network), time.perf_counter(), time.process_time()
    records = [encoder.record(number, iter(())) for number in range(encoder.header.num_groups)]
    times = {
        "seconds": time.perf_counter() - began,
        "cpu_seconds": time.process_time() - busy,
        "network_cpu_seconds": network.seconds,
    }
    return encoder.header.to_bytes() + b"".join(records), times


def progressive(model: Any, images: np.ndarray, fit: np.ndarray, how: dict[str, Any]) -> list[dict[str, float]]:
    """Real bytes and the report's nats by which each level of these images is known, and how good x̂ is there."""
    data = compress(model, images, progressive=True, verify=False, fit=fit, **how)
    views = [list(reveal(model, data, number)) for number in range(len(images))]
    ready = prepare(model, Method(variance="isotropic", **how), fit).model
    curve = rate_distortion(ready, collect_level_statistics(ready, images, knots=None, per_image=ready.num_levels - 1))
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
