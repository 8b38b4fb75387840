"""Images in: cartoon faces, digits, folders and array files, split into parts that share no image."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from markovae.data.images import ImageData
    from markovae.data.inspect import Inspection, inspect_data
    from markovae.data.loading import load_data, reopen
    from markovae.data.options import DataConfig
    from markovae.data.split import Splits

# Lazily, so that reading a configuration loads neither numpy nor pillow.
_HOME = {
    "DataConfig": "options",
    "ImageData": "images",
    "Inspection": "inspect",
    "Splits": "split",
    "inspect_data": "inspect",
    "load_data": "loading",
    "reopen": "loading",
}

__all__ = ["DataConfig", "ImageData", "Inspection", "Splits", "inspect_data", "load_data", "reopen"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'markovae.data' has no attribute {name!r}")
    return getattr(import_module(f"markovae.data.{_HOME[name]}"), name)
