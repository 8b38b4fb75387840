"""Diffusion models as Markovian VAEs: train, sample in seconds, and measure in nats and bits/dim.

Importing this package is cheap: torch is loaded when a name is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from markovae.build import create
    from markovae.checkpoint import load
    from markovae.config import Config
    from markovae.data import load_data
    from markovae.diffusion import Diffusion
    from markovae.fitting import with_reverse
    from markovae.interop import wrap
    from markovae.likelihood import Measurement, measure
    from markovae.networks.condition import Condition
    from markovae.quality import Quality, assess
    from markovae.sampling import sample
    from markovae.training import Step, fit
    from markovae.vae import Bound, MarkovianVAE

_HOME = {
    "Bound": "vae",
    "Condition": "networks.condition",
    "Config": "config",
    "Diffusion": "diffusion",
    "MarkovianVAE": "vae",
    "Measurement": "likelihood",
    "Quality": "quality",
    "Step": "training",
    "assess": "quality",
    "create": "build",
    "fit": "training",
    "load": "checkpoint",
    "load_data": "data",
    "measure": "likelihood",
    "sample": "sampling",
    "with_reverse": "fitting",
    "wrap": "interop",
}

__all__ = [
    "Bound",
    "Condition",
    "Config",
    "Diffusion",
    "MarkovianVAE",
    "Measurement",
    "Quality",
    "Step",
    "__version__",
    "assess",
    "create",
    "fit",
    "load",
    "load_data",
    "measure",
    "sample",
    "with_reverse",
    "wrap",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'markovae' has no attribute {name!r}")
    return getattr(import_module(f"markovae.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
