"""`markovae export`: a run as a folder that other libraries load."""

from __future__ import annotations

import argparse

from markovae.cli.options import add_run, add_trust, one_of
from markovae.errors import UserError
from markovae.log import show

FORMATS = ("diffusers", "torch")
SUMMARY = "write a run for diffusers, or for torch alone"
DESCRIPTION = """\
Write the averaged weights of a run as a folder for other libraries. diffusers: a pipeline with a model card; only
runs with network.kind=ddpm have a network that diffusers knows, and what else it cannot express is named. torch: any
network as a graph of torch.export, with a sampling loop of twenty lines.
"""
EXAMPLES = """\
examples:
  markovae train photos/ --set network.kind=ddpm --set target.name=noise --set schedule.kind=linear --out runs/a
  markovae export runs/a --to diffusers exported/
  markovae export runs/b --to torch served/               # then: python served/serve.py
  markovae export runs/a --to diffusers exported/ --push me/photos        # needs pip install 'markovae[hub]'
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `markovae export`."""
    add_run(parser)
    parser.add_argument("--to", metavar="FORMAT", type=one_of(*FORMATS), required=True, help="diffusers or torch")
    parser.add_argument("folder", metavar="DIR", help="the folder to write: new or empty")
    add_trust(parser)
    parser.add_argument("--push", metavar="NAME", help="upload the folder to this model repository of the Hub as well")


def run(options: argparse.Namespace) -> int:
    """Export and tell; exit code 0.

    Raises:
        UserError: for what the format cannot express, or a folder that is not empty.
    """
    from markovae.checkpoints.reading import load
    from markovae.interop.exporting import export, usage
    from markovae.interop.hub import push_folder, require_hub
    from markovae.sampling.conditions import num_classes

    if options.push is not None:
        if options.to != "diffusers":
            raise UserError("--push uploads a diffusers pipeline: use --to diffusers, or leave --push out")
        require_hub()
    folder = export(options.run_path, options.folder, options.to, name=options.push, trust=options.trust)
    if options.to == "torch":
        show(f"{folder}: use it with\npython {folder / 'serve.py'}")
        return 0
    model = load(options.run_path)
    show(f"{folder}: use it with\n{usage(str(folder), model.num_levels, num_classes(model) > 0)}")
    if options.push is not None:
        show(push_folder(folder, options.push))
    return 0
