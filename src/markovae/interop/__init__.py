"""Models that move to and from diffusers, and denoisers of anybody's as a `Diffusion`; diffusers itself is not used."""

from markovae.interop.exporting import export_run
from markovae.interop.foreign import wrap
from markovae.interop.importing import import_folder
from markovae.interop.pushing import push_folder, require_hub

__all__ = ["export_run", "import_folder", "push_folder", "require_hub", "wrap"]
