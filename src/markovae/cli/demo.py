"""`markovae demo`: the whole path in minutes."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from markovae.cli.parser import positive


def add_options(command: argparse.ArgumentParser) -> None:
    """The options of this command."""
    command.add_argument("--minutes", type=positive, default=4.5, help="of training")
    command.add_argument(
        "--out", metavar="RUN", default=None, help="folder of the run; none named: runs/demo, or the next number free"
    )
    command.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps …")


def run(options: argparse.Namespace) -> int:
    """Faces: train, sample, measure, report."""
    from markovae.cli.device import chosen_device
    from markovae.config import Config
    from markovae.console import say
    from markovae.report import write_report
    from markovae.run import train_run

    device = chosen_device(options.device)
    target = Path(options.out) if options.out else free_name(Path("runs/demo"))
    config = Config().with_settings(["data.source=faces", f"train.minutes={options.minutes}"])
    say(f"faces: {options.minutes:g} minutes of training, then samples, bits and a report")
    folder = train_run(config, target, device=device)
    write_report(folder, device=device)
    figures = json.loads((folder / "report.json").read_text())
    bits = figures["measurement"]["bits_per_dim"]
    coders = {coder["name"]: coder["bits_per_dim"] for coder in figures["coders"]}
    print(f"\nfaces that did not exist   {folder}/samples/grid.png")
    print(f"the report                 {folder}/report.html")
    low, high = bits["ci95"]
    print(f"what a face costs          {bits['mean']:.3f} bits/dim (95 % {low:.3f} … {high:.3f}),")
    print("                           " + ", ".join(f"{name} {value:.3f}" for name, value in coders.items()))
    print(f"\nmore samples:   markovae sample {folder} --n 64 --seed 1")
    print("your images:    markovae train FOLDER --out runs/mine")
    return 0


def free_name(base: Path) -> Path:
    """`base`, or base-2, base-3 … : the first that is not taken."""
    number, name = 1, base
    while name.exists() and any(name.iterdir()):
        number += 1
        name = base.with_name(f"{base.name}-{number}")
    return name
