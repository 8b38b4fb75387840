"""How long one waits before anything happens.

    python benchmarks/startup.py [--data digits faces] [--rounds 7] [--threads N] [--note TEXT]

Fresh processes in alternating rounds: `markovae --help`; `import markovae`; `import torch`, the floor of whatever uses
it; and the first training step of the default network, data and imports included, with an empty cache folder (cold: the
faces are drawn) and with a full one (warm). Without the cold faces, which take a minute or more, about a minute.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import machine

STEP = """
import sys
import markovae as mv
data = mv.load_data(sys.argv[1]).train
model = mv.create(mv.Config(), data.shape, bins=data.bins, num_classes=len(data.class_names))
next(mv.fit(model, data, steps=10))
"""


def main(arguments: list[str] | None = None) -> int:
    options = parsed(arguments)
    found = machine.facts(options)
    with tempfile.TemporaryDirectory() as folder:
        rows = study(options, Path(folder))
    for label, value in rows.items():
        print(f"{label:40s} {value['median']:8.3f} s ({value['low']:.3f} to {value['high']:.3f})")
    machine.written({"machine": found, "seconds": rows}, options, "startup")
    return 0


def parsed(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    machine.add_options(parser)
    parser.add_argument("--data", nargs="+", default=["digits", "faces"])
    parser.add_argument("--rounds", type=int, default=7)
    return parser.parse_args(arguments)


def study(options: argparse.Namespace, folder: Path) -> dict[str, dict[str, float]]:
    """Seconds of each, by name."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(options.threads), "MARKOVAE_CACHE": str(folder / "cache")}
    run = partial(subprocess.run, env=environment, check=True, capture_output=True)
    cold = {
        f"first step, {data}, cold": [machine.seconds(partial(run, [sys.executable, "-c", STEP, data]))]
        for data in options.data
    }
    works = {
        "markovae --help": [sys.executable, "-m", "markovae", "--help"],
        "import markovae": [sys.executable, "-c", "import markovae"],
        "import nothing": [sys.executable, "-c", ""],
        "import torch": [sys.executable, "-c", "import torch"],
    }
    works |= {f"first step, {data}, warm": [sys.executable, "-c", STEP, data] for data in options.data}
    times = dict(cold)
    for turn in range(options.rounds):
        for name in rotated(works, turn):
            times.setdefault(name, []).append(machine.seconds(partial(run, works[name])))
    return {name: machine.spread(values) for name, values in times.items()}


def rotated(works: Mapping[str, Any], turn: int) -> list[str]:
    """The names, begun by another every time."""
    names, start = list(works), turn % len(works)
    return names[start:] + names[:start]


if __name__ == "__main__":
    sys.exit(main())
