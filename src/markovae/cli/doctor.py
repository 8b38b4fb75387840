"""`markovae doctor`: what this machine is, and whether its device calculates as the CPU does."""

from __future__ import annotations

import argparse

from markovae.cli.options import add_json, add_machine
from markovae.cli.output import table
from markovae.log import show, show_json
from markovae.system.device import device_named

SUMMARY = "check the machine: versions, device, precision, agreement"
DESCRIPTION = """\
Say what markovae runs on, and compare a small model on the device with the same model on the CPU, one image at a
time. Exit code 1 where they disagree.
"""
EXAMPLES = """\
examples:
  markovae doctor
  markovae doctor --device cpu --json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `markovae doctor`."""
    add_json(parser)
    add_machine(
        parser,
        batch="images of the comparison (default: 8)",
        precision="what is compared: float32 (the default) or bfloat16",
        float64=False,
    )


def run(options: argparse.Namespace) -> int:
    """Look, compare and tell; exit code 0, or 1 where device and CPU disagree.

    Raises:
        UserError: for a device that is not there.
    """
    from markovae.report.machine import examine

    device = device_named(options.device)
    bfloat16 = options.precision == "bfloat16"
    record = examine(device, bfloat16, options.batch or 8)
    if options.json:
        show_json(record)
    else:
        rows = [(name, "", str(value)) for name, value in record["versions"].items()]
        machine = [(name, "", str(value)) for name, value in record["machine"].items()]
        show(
            "versions\n"
            + table(rows)
            + "\nmachine\n"
            + table(machine)
            + "\nagreement with the CPU, one image at a time"
        )
        checks = [
            (row["name"], f"{row['difference']:.1e}", f"of at most {row['tolerance']:.0e}: {_word(row['pass'])}")
            for row in record["agreement"]
        ]
        show(table(checks))
    return 0 if record["pass"] else 1


def _word(passed: bool) -> str:
    return "agrees" if passed else "DISAGREES"
