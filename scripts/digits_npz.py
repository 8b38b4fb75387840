"""Write src/markovae/data/digits.npz from scikit-learn's copy of the UCI digits (CC BY 4.0).

Usage: python scripts/digits_npz.py        (needs scikit-learn; the file it writes is committed)
"""

import os
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits  # type: ignore[import-not-found, import-untyped]

TARGET = Path(__file__).parents[1] / "src" / "markovae" / "data" / "digits.npz"


def main() -> None:
    bunch = load_digits()
    images = bunch.images.astype(np.uint8)
    if not np.array_equal(images, bunch.images) or images.max() != 16:
        raise SystemExit("the digits are no longer whole numbers from 0 to 16")
    stage = TARGET.with_suffix(".part.npz")
    np.savez_compressed(stage, images=images, labels=bunch.target.astype(np.uint8))
    with stage.open("rb") as handle:
        os.fsync(handle.fileno())
    stage.replace(TARGET)
    print(f"{TARGET}: {len(images)} images, {TARGET.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
