"""What a run learns of its averaged model while it trains: its variance, held-out bounds, pictures and guidance."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any, final

from markovae.checkpoints.writing import checkpoint_name
from markovae.config import Config
from markovae.data.images import ImageData
from markovae.data.split import Splits
from markovae.diffusion.cascade import Model, one_stage
from markovae.diffusion.model import Diffusion
from markovae.errors import UserError
from markovae.run.heldout import GRID_SIDE, copying_sentence, held_out_row, heldout_sentence, sample_grid
from markovae.run.run_folder import RunFolder
from markovae.run.signals import Interrupts
from markovae.run.surroundings import Surroundings
from markovae.sampling.generation import NonFiniteSamples
from markovae.sampling.plans import default_steps
from markovae.system.files import replace_file
from markovae.text.conditioner import attach_conditioning
from markovae.training.train_step import NonFiniteError
from markovae.training.trainer import Training

CHOICE, LONGEST_CHOICE = 0.1, 60.0  # share of a budget in minutes, and seconds, that choosing the guidance may take
LEAST_CHOICE, MOST_CHOICE = 64, 500  # samples of each weight that is tried


@final
class Evaluations:
    """Evaluates the averaged weights of a training at its present step; rows and pictures go to the folder.

    Args:
        folder: of the run, held.
        config: of the run.
        splits: its data.
        training: what is evaluated; its timer times everything here.
        around: where remarks go.
    Attributes:
        heldout: the last held-out row, or None.
        guidance: the weight that was chosen, or None.
    """

    def __init__(
        self, folder: RunFolder, config: Config, splits: Splits, training: Training, around: Surroundings
    ) -> None:
        self.folder, self.config, self.splits = folder, config, splits
        self.training, self.around = training, around
        self.heldout: dict[str, Any] | None = None
        self.guidance: float | None = None
        self._fitted_step = -1

    @property
    def model(self) -> Model:
        """With averaged weights."""
        return self.training.average.model

    @property
    def picture(self) -> Path:
        """Where the present step's grid of samples lies."""
        return self.folder.samples / f"{checkpoint_name(self.training.step)}.png"

    def went_back(self, fitted: bool) -> None:
        """The training is at a checkpoint again, whose rows the folder has; `fitted` if with a fit to all images."""
        self._fitted_step = self.training.step if fitted else -1
        self.heldout = self.folder.last("heldout")

    def seconds_needed(self, interrupts: Interrupts) -> float:
        """What all evaluations of a run whose budget is a time will cost, by one of each."""
        training, config = self.training, self.config.train
        self._validation  # noqa: B018 - captions that must be encoded first are no part of what an evaluation costs
        started = training.seconds
        with interrupts.interruptible():
            self.fit()
        cost = (training.seconds - started) * (config.evaluations + max(1, config.fit_images / config.eval_images))
        if config.evaluations:
            started = training.seconds
            with interrupts.interruptible():
                self.bound()
            once = training.seconds - started
            calls = config.eval_images * (config.eval_draws + 1)
            steps = default_steps(training.model)
            cost += once * (config.evaluations + config.grids * GRID_SIDE**2 * steps / calls)
        return cost + (self._guidance_seconds if self.chooses_guidance else 0.0)

    def fit(self) -> None:
        """Fit the average's reverse variance, where it is fitted to images: a few on the way, all at the end."""
        training, config = self.training, self.config.train
        if self._fitted_step != training.step:
            training.fit_variance(config.fit_images if training.done else config.eval_images)
            self._fitted_step = training.step

    def bound(self) -> dict[str, Any] | None:
        """Measure the held-out bound and add its row; None where the run has none, or had it at this step.

        Raises:
            NonFiniteError: for a bound that is NaN or Inf.
        """
        step, before = self.training.step, self.heldout
        if not self.config.train.evaluations:
            return None
        figures = held_out_row(self.model, self._validation, self.config.train)
        row = {"kind": "heldout", "step": step, "seconds": self.training.seconds, **figures}
        if row["bits_per_dim"]["mean"] is None:
            raise NonFiniteError(f"the held-out bound is NaN or Inf after step {step}")
        if before is not None and before["step"] == step:
            return None  # a resumed run that had to time an evaluation again
        self.folder.append(row)
        self.around.remark(f"step {step:,}: {heldout_sentence(row, before, self.splits.train.bins)}")
        self.heldout = row
        return row

    def draw(self) -> None:
        """Draw a grid of samples and write its picture."""
        step = self.training.step
        if not self.config.train.grids:
            return
        try:
            picture, samples = sample_grid(self.model, self._validation)
        except NonFiniteSamples as error:  # of a young model; the run itself is sound
            self.around.remark(f"step {step:,}: no picture, {error}")
            return
        self.folder.require_held()
        replace_file(self.picture, picture, self.folder.disk)
        if self.config.train.preset == "few" and len(self.splits.validation) > 1:
            self.around.remark(f"step {step:,}: {copying_sentence(samples, self.splits)}")

    @property
    def chooses_guidance(self) -> bool:
        """Whether the run ends with the choice of its guidance: a model of classes with time set aside."""
        model, config = self.training.model, self.config.train
        classes = int(getattr(model.network, "num_classes", 0))
        takes = isinstance(model, Diffusion) and classes > 1 and model.null_trained
        return takes and config.choose_guidance and config.seconds is not None

    @property
    def _guidance_seconds(self) -> float:
        return min(LONGEST_CHOICE, CHOICE * (self.config.train.seconds or 0.0))

    def choose_guidance(self, model: Model) -> None:
        """Choose and say the guidance of what the run is opened by, with as many samples as the time allows."""
        from markovae.quality.evaluation import GUIDANCES, choose_guidance

        training = self.training
        # Guidance takes two network evaluations per step, and an evaluation a third of a training step's time.
        pace = 3 * training.step * self.config.train.batch / max(training.seconds, 1e-9)
        fits = int(self._guidance_seconds * pace / (2 * default_steps(model) * len(GUIDANCES)))
        n = min(fits, len(self.splits.train), len(self.splits.validation) + len(self.splits.test), MOST_CHOICE)
        if n < LEAST_CHOICE:
            return
        try:
            weight, tried = choose_guidance(one_stage(model, "guidance"), self.splits, n)
        except (UserError, NonFiniteSamples) as error:  # of few images, or a young model; the run itself is sound
            self.around.remark(f"no guidance was chosen: {error}")
            return
        self.guidance = weight
        table = ", ".join(f"{tried[w]:.3f} at {w:g}" for w in tried)
        self.around.remark(
            f"guidance {weight:g} is the default of this run's classes (KID of {n} held-out images: {table})"
        )

    @cached_property
    def _validation(self) -> ImageData:
        return attach_conditioning(self.training.model, self.splits.validation, held_out=True)
