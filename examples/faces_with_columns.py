"""A folder of faces with a table beside them: how bright each is, its background, and what it wears."""

import csv
import sys
from pathlib import Path

import numpy as np
from PIL import Image

import markovae as mv
from markovae.data.faces import attributes
from markovae.data.faceset import render


def write(folder: Path, count: int) -> None:
    """Faces 0, 1, … as PNG files, and metadata.csv."""
    chance = np.random.default_rng(0)
    folder.mkdir()
    with (folder / "metadata.csv").open("w", newline="") as table:
        rows = csv.writer(table)
        rows.writerow(["file_name", "light", "background", "wears"])
        for number in range(count):
            face, light = attributes(number), int(chance.integers(30, 101))
            pixels = (render(number, size=32) * (light / 100)).round().astype(np.uint8)
            Image.fromarray(np.moveaxis(pixels, 0, -1)).save(folder / f"{number:05d}.png")
            worn = {"glasses": face.glasses, "beard": face.beard, "hat": face.headwear}
            wears = ";".join(name for name, kind in worn.items() if kind != "none")
            rows.writerow([f"{number:05d}.png", light if number % 50 else "", face.background, wears or "nothing"])


if __name__ == "__main__":
    given = sys.argv[1:2]  # how many faces
    write(Path("faces-with-columns"), int(given[0]) if given and given[0].isdecimal() else 24)
    print(mv.inspect("faces-with-columns").describe())
