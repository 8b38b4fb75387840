"""`markovae measure`: the bound of a run on images, in bits per dimension, with its error."""

from __future__ import annotations

import argparse

from markovae.cli.measure_options import add_arguments, check, require_alone
from markovae.cli.running import open_run
from markovae.log import show, show_json

__all__ = ["DESCRIPTION", "EXAMPLES", "SUMMARY", "add_arguments", "run"]

SUMMARY = "measure what images cost under a run, in bits/dim"
DESCRIPTION = """\
Measure the bound on -ln P of images under a run's averaged weights, in float32 unless told otherwise. Every image
counts once; nothing is augmented, clamped or dropped. The figure is an upper bound on the code length. What is fitted
before measuring (--estimator importance, --grid optimal, --variance) is fitted on other images.
"""
EXAMPLES = """\
examples:
  markovae measure runs/faces                       the test part of the run's own data, 16 draws an image
  markovae measure runs/a --against runs/b          the difference, on common images, levels and noise
  markovae measure runs/faces --estimator importance --draws 9   levels drawn by how much they tend to cost
  markovae measure runs/faces --levels 32 --grid optimal   the best 32 levels, with variances refitted for them
  markovae measure runs/faces --draws all --limit 50   every level of 50 images: slow, no noise from the levels
  markovae measure runs/faces photos/ --split all --csv costs.csv   other images, all of them, one row each
  markovae measure runs/text --captions             what captions say about images, in nats, attribute by attribute
  torchrun --nproc-per-node 8 -m markovae measure runs/faces        by eight processes: the same figures to the bit
"""


def run(options: argparse.Namespace) -> int:
    """Measure and tell; exit code 0.

    Raises:
        UserError: for options that do not go together, data that do not fit the model, or a file that cannot be.
    """
    if options.captions:
        return _captions(options)
    check(options)
    from markovae.cli.measure_data import choose
    from markovae.cli.measure_files import check_places, save, write_csv
    from markovae.cli.measure_words import describe
    from markovae.cli.measure_work import perform
    from markovae.system.distributed import TIMEOUT, joined

    opened = open_run(options, trained_in=False)
    check_places(options)
    rival = None
    if options.against is not None:
        rival = open_run(argparse.Namespace(**{**vars(options), "run_path": options.against}), trained_in=False)
    with joined(TIMEOUT, opened.model.device) as ranks:
        chosen = ranks.in_turn(lambda: choose(opened, options.data, options.split, options.limit))
        outcome = perform(opened, rival, chosen, options, ranks)
    if not ranks.first:
        return 0
    record = outcome.record(options)
    if options.csv is not None:
        write_csv(options.csv, outcome)
    if options.save:
        record["saved"] = str(save(outcome, record, options))
    if options.json:
        show_json(record)
    else:
        show(describe(outcome, record, options))
    return 0


def _captions(options: argparse.Namespace) -> int:
    from markovae.cli.measure_captions import captions_in_words, check_captions, weigh
    from markovae.cli.measure_data import choose

    check_captions(options)
    require_alone("--captions")
    opened = open_run(options, trained_in=False)
    record = weigh(opened, choose(opened, options.data, options.split, options.limit), options)
    if options.json:
        show_json(record)
    else:
        show(captions_in_words(record))
    return 0
