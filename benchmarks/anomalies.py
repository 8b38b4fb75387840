"""Which images are odd: AUROC of Fashion-MNIST against digits, both ways, by raw bits and by corrected ones.

    python benchmarks/anomalies.py [--fashion DIR] [--runs DIR] [--images 120] [--draws 12]

DIR holds Fashion-MNIST's idx files (Debian's package dataset-fashion-mnist). The digits are those of the library, 8×8,
scaled to 20×20 and set into 28×28 as MNIST's are. Two small models are trained (U-Nets of width 32; 700 and 150 steps
of 32 images: about eight minutes on one idle core) or taken from --runs, and each ranks images of both kinds against
held-out images of its own. Writes docs/results/anomalies.json and .md.
"""

from __future__ import annotations

import argparse
import gzip
import io
import json
import math
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import markovae as mv
from markovae.data.digits import digits
from markovae.data.image_codecs import SETTINGS
from markovae.log import log
from markovae.system.files import write_file

PLACE = Path(__file__).parents[1] / "docs" / "results"
SIDE, INSIDE = 28, 20
SETTINGS_OF_RUNS = ("network.width=32", "train.evaluations=0", "train.grids=1", "train.precision=float32")
KINDS = ("fashion", "digits")


def fashion(folder: Path, name: str, count: int) -> np.ndarray:
    """Its first images, (count, 1, 28, 28)."""
    with gzip.open(folder / f"{name}-images-idx3-ubyte.gz") as file:
        content = file.read()
    return np.frombuffer(content, np.uint8, offset=16).reshape(-1, 1, SIDE, SIDE)[:count]


def large_digits() -> np.ndarray:
    """The 8×8 digits as MNIST shows its own, (1797, 1, 28, 28)."""
    images = np.zeros((len(digits().images), 1, SIDE, SIDE), np.uint8)
    at = slice((SIDE - INSIDE) // 2, (SIDE + INSIDE) // 2)
    for image, (small,) in zip(images, digits().images, strict=True):
        grey = Image.fromarray(np.round(small * (255 / 16)).astype(np.uint8))
        image[0, at, at] = np.asarray(grey.resize((INSIDE, INSIDE), Image.Resampling.BICUBIC))
    return images


def trained(run: Path, images: np.ndarray, steps: int) -> mv.Diffusion:
    """A small model of these images, or the one that lies there."""
    if not (run / "checkpoints").is_dir():
        source = run.with_suffix(".npy")
        np.save(source, images)
        words = (*SETTINGS_OF_RUNS, f"train.steps={steps}")
        mv.train(str(source), run, mv.Config().with_settings(words))
    return mv.load(run)


def auroc(ordinary: torch.Tensor, odd: torch.Tensor) -> float:
    """P(an odd image scores higher than an ordinary one), ties counting half."""
    above = (odd[:, None] > ordinary).double().mean() + 0.5 * (odd[:, None] == ordinary).double().mean()
    return float(above)


def file_bits(images: np.ndarray, name: str) -> torch.Tensor:
    """Bits of each image as a lossless file."""
    bits = []
    for image in images:
        stream = io.BytesIO()
        Image.fromarray(image[0]).save(stream, name, **SETTINGS[name])
        bits.append(8.0 * stream.tell())
    return torch.tensor(bits, dtype=torch.float64)


def studied(model: mv.Diffusion, own: np.ndarray, other: np.ndarray, options: argparse.Namespace) -> dict[str, float]:
    """AUROC by each score of a model of `own`, on images of both kinds that were not trained on."""
    n = options.images
    heldout, ordinary, odd = own[:n], own[n : 2 * n], other[:n]
    how = {"draws": options.draws, "batch": 128, "progress": True}
    found = mv.rank_anomalies(model, np.concatenate([ordinary, odd]), heldout, **how)
    bits, score = found.images.bits, found.images.score
    means = {"bits_per_dim": bits[:n].mean(), "bits_per_dim_odd": bits[n:].mean()}
    row = {name: float(mean) / model.dims for name, mean in means.items()}
    row["raw"] = auroc(bits[:n], bits[n:])
    for name in SETTINGS:
        less = bits - torch.cat([file_bits(ordinary, name), file_bits(odd, name)])
        row[f"less {name}"] = auroc(less[:n], less[n:])
    row["less complexity"] = auroc(score[:n], score[n:])
    p = found.p_value
    row |= {"p_below_0.05_ordinary": float((p[:n] <= 0.05).double().mean())}
    row |= {"p_below_0.05_odd": float((p[n:] <= 0.05).double().mean())}
    return row


def page(record: dict) -> str:
    """The table."""
    names = ("raw", *(f"less {name}" for name in SETTINGS), "less complexity")
    lines = [
        "# Which images are odd?",
        "",
        "AUROC of telling images of another kind from held-out images of the model's own; 0.5 is chance, below it odd",
        "images look *more* ordinary. Raw bits of the model of clothes fail in the classical way, since digits are",
        "simpler; less the bits of a lossless predictive coder they do not. By",
        f"`python benchmarks/anomalies.py`: {record['images']} images of each kind, {record['draws']} levels each, "
        f"models of {record['steps'][0]:,} and {record['steps'][1]:,} steps of 32 images. {record['machine']}",
        "",
        "| model of | odd images | bits/dim own | odd | " + " | ".join(names) + " | p ≤ 0.05: own | odd |",
        "| --- | --- " + "| ---: " * (len(names) + 4) + "|",
    ]
    for kind, other in zip(KINDS, KINDS[::-1], strict=True):
        row = record["rows"][kind]
        figures = (f"{row[name]:.3f}" for name in names)
        shares = (f"{row[name]:.0%}" for name in ("p_below_0.05_ordinary", "p_below_0.05_odd"))
        bits = f"{row['bits_per_dim']:.2f} | {row['bits_per_dim_odd']:.2f}"
        lines.append(f"| {kind} | {other} | {bits} | {' | '.join(figures)} | {' | '.join(shares)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fashion", type=Path, default=Path("/usr/share/datasets/fashion-mnist"))
    parser.add_argument("--runs", type=Path, help="where runs fashion and digits lie, or are put")
    parser.add_argument("--steps", type=int, nargs=2, default=(700, 150), help="of the two trainings")
    parser.add_argument("--images", type=int, default=120, help="held-out, ordinary and odd ones, each")
    parser.add_argument("--draws", type=int, default=12)
    parser.add_argument("--note", default="", help="the processor, and what else ran on it, for the page")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        runs = options.runs or Path(scratch)
        all_digits = large_digits()
        training = {"fashion": fashion(options.fashion, "train", 12_000), "digits": all_digits[:1500]}
        test = {"fashion": fashion(options.fashion, "t10k", 1000), "digits": all_digits[1500:]}
        rows = {}
        for kind, other, steps in zip(KINDS, KINDS[::-1], options.steps, strict=True):
            model = trained(runs / kind, training[kind], steps)
            rows[kind] = studied(model, test[kind], test[other], options)
            log(f"{kind}: " + ", ".join(f"{name} {value:.3f}" for name, value in rows[kind].items()))
    record = {"images": options.images, "draws": options.draws, "steps": list(options.steps), "rows": rows}
    record["machine"] = options.note
    assert all(math.isfinite(value) for row in rows.values() for value in row.values())
    write_file(PLACE / "anomalies.json", (json.dumps(record, indent=1) + "\n").encode())
    write_file(PLACE / "anomalies.md", page(record).encode())


if __name__ == "__main__":
    main()
