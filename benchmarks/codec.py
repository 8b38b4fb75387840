"""Compressed bytes beside the bound of the same images and levels: `python benchmarks/codec.py RUN --images 200`.

    python benchmarks/codec.py tests/fixtures/reference --images 200 --levels 32 100 --out docs/results/codec.json

Faces that no run was trained on are compressed in one group, with an isotropic reverse variance fitted to other faces.
PNG and lossless WebP hold the same images, a file each.
"""

from __future__ import annotations

import argparse
import io
import json
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import markovae as mv
from machine import processor
from markovae.data.faceset import render
from markovae.likelihood.codec import compress, decompress, describe

UNSEEN, FITTED_ON = 20_000, 30_000  # numbers of faces beyond every split


def file_bytes(images: np.ndarray, kind: str, **options: object) -> int:
    total = 0
    for image in images:
        buffer = io.BytesIO()
        Image.fromarray(image.transpose(1, 2, 0)).save(buffer, kind, **options)
        total += len(buffer.getvalue())
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run")
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--levels", type=int, nargs="+", default=[32, 100])
    parser.add_argument("--fit", type=int, default=256)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model = mv.load(options.run)
    side = model.shape[1]
    images = np.stack([render(i, side) for i in range(UNSEEN, UNSEEN + options.images)])
    fit = np.stack([render(i, side) for i in range(FITTED_ON, FITTED_ON + options.fit)])
    rows = []
    for levels in options.levels:
        began = time.perf_counter()
        data = compress(model, images, levels=levels, fit=fit, verify=False)
        encoded = time.perf_counter()
        assert np.array_equal(decompress(model, data), images)
        decoded = time.perf_counter()
        bound = mv.measure(mv.with_reverse(model, "isotropic", fit), images, levels=levels, draws=16).bits_per_dim
        plain = describe(data)["groups"][0]["plain"]
        rows.append(
            {
                "levels": levels,
                "bytes": len(data),
                "plain_images": len(plain),
                "plain_bytes": sum(plain),
                "bits_per_dim": 8 * len(data) / images.size,
                "bound": bound.value,
                "bound_stderr": bound.stderr,
                "encode_images_per_second": len(images) / (encoded - began),
                "decode_images_per_second": len(images) / (decoded - encoded),
            }
        )
        print(json.dumps(rows[-1]), flush=True)
    record = {
        "processor": processor(),
        "threads": options.threads,
        "images": options.images,
        "raw_bytes": images.size,
        "png_bytes": file_bytes(images, "PNG", optimize=True),
        "webp_bytes": file_bytes(images, "WEBP", lossless=True, quality=100, method=6),
        "rows": rows,
    }
    if options.out:
        Path(options.out).write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps({name: record[name] for name in ("raw_bytes", "png_bytes", "webp_bytes")}))


if __name__ == "__main__":
    main()
