"""What `markovae train` drives: the folder of a run, its signals, its figures, its checkpoints."""

from markovae.run.folder import RunFolder
from markovae.run.start import resume_run, train_run

__all__ = ["RunFolder", "resume_run", "train_run"]
