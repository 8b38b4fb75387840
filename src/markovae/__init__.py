"""Diffusion models as Markovian VAEs: train, sample in seconds, and measure in nats and bits/dim.

Importing this package is cheap: torch is loaded when a name is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from markovae.build import create
    from markovae.checkpoints.reading import LoadedRun, load, load_run
    from markovae.checkpoints.saving import save
    from markovae.compression.codec import compress, decompress
    from markovae.config import Config
    from markovae.data.inspecting import inspect
    from markovae.data.loading import load_data
    from markovae.data.pictures import grid
    from markovae.diffusion.bound import Bound
    from markovae.diffusion.markovian_vae import MarkovianVAE
    from markovae.diffusion.model import Diffusion
    from markovae.diffusion.objective import Objective
    from markovae.interop.exporting import export
    from markovae.interop.importing import import_run
    from markovae.interop.wrapping import wrap
    from markovae.likelihood.anomalies import AnomalyRanking, rank_anomalies
    from markovae.likelihood.caption_information import caption_information
    from markovae.likelihood.column_information import column_information
    from markovae.likelihood.comparison import Comparison, compare
    from markovae.likelihood.continuous import continuous_bound
    from markovae.likelihood.fitting import with_reverse
    from markovae.likelihood.measurement import Measurement
    from markovae.likelihood.measuring import measure
    from markovae.likelihood.ode import ode_likelihood
    from markovae.networks.conditioning import Condition
    from markovae.quality.evaluation import evaluate
    from markovae.quality.quality_record import Quality
    from markovae.run.distilling import distill
    from markovae.run.start import resume, train
    from markovae.sampling.editing import Edit, edit
    from markovae.sampling.generation import sample
    from markovae.training.ema import EMA
    from markovae.training.loop import fit
    from markovae.training.train_step import TrainStep

_HOME = {
    "compress": "compression.codec",
    "decompress": "compression.codec",
    "EMA": "training.ema",
    "Bound": "diffusion.bound",
    "Comparison": "likelihood.comparison",
    "AnomalyRanking": "likelihood.anomalies",
    "rank_anomalies": "likelihood.anomalies",
    "caption_information": "likelihood.caption_information",
    "column_information": "likelihood.column_information",
    "compare": "likelihood.comparison",
    "continuous_bound": "likelihood.continuous",
    "ode_likelihood": "likelihood.ode",
    "Condition": "networks.conditioning",
    "Config": "config",
    "Diffusion": "diffusion.model",
    "LoadedRun": "checkpoints.reading",
    "MarkovianVAE": "diffusion.markovian_vae",
    "Edit": "sampling.editing",
    "Measurement": "likelihood.measurement",
    "Objective": "diffusion.objective",
    "Quality": "quality.quality_record",
    "TrainStep": "training.train_step",
    "distill": "run.distilling",
    "edit": "sampling.editing",
    "evaluate": "quality.evaluation",
    "create": "build",
    "export": "interop.exporting",
    "import_run": "interop.importing",
    "inspect": "data.inspecting",
    "fit": "training.loop",
    "grid": "data.pictures",
    "load": "checkpoints.reading",
    "load_data": "data.loading",
    "load_run": "checkpoints.reading",
    "measure": "likelihood.measuring",
    "resume": "run.start",
    "sample": "sampling.generation",
    "train": "run.start",
    "save": "checkpoints.saving",
    "with_reverse": "likelihood.fitting",
    "wrap": "interop.wrapping",
}

__all__ = [
    "EMA",
    "AnomalyRanking",
    "Bound",
    "Comparison",
    "Condition",
    "Config",
    "Diffusion",
    "Edit",
    "LoadedRun",
    "MarkovianVAE",
    "Measurement",
    "Objective",
    "Quality",
    "TrainStep",
    "__version__",
    "caption_information",
    "column_information",
    "compare",
    "compress",
    "continuous_bound",
    "create",
    "decompress",
    "distill",
    "edit",
    "evaluate",
    "export",
    "fit",
    "grid",
    "import_run",
    "inspect",
    "load",
    "load_data",
    "load_run",
    "measure",
    "ode_likelihood",
    "rank_anomalies",
    "resume",
    "sample",
    "save",
    "train",
    "with_reverse",
    "wrap",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'markovae' has no attribute {name!r}")
    return getattr(import_module(f"markovae.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
