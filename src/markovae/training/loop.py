"""`fit`: training as an iterator."""

from __future__ import annotations

import warnings
from collections.abc import Generator, Iterator
from typing import Any, Self, final

from markovae.diffusion.cascade import Model
from markovae.diffusion.fitted_variance import fitted_tensors, is_fitted_kind, load_fitted
from markovae.diffusion.model import load_weights
from markovae.diffusion.objective import Objective
from markovae.errors import UserError
from markovae.system.memory import kept_memory
from markovae.tables import from_table, to_table
from markovae.training.examples import Transform, as_examples
from markovae.training.losses import OwnFunction
from markovae.training.train_config import TrainConfig
from markovae.training.train_step import TrainStep
from markovae.training.trainer import Training


def fit(
    model: Model,
    data: Any,
    config: TrainConfig | None = None,
    *,
    transform: Transform | None = None,
    flip: bool = False,
    objective: Objective | None = None,
    loss: OwnFunction | None = None,
    **settings: Any,
) -> Iterator[TrainStep]:
    """Train `model` in place and yield every step; when the iterator ends or is closed, the model holds the
    average of the weights (EMA), ready to sample and to measure; a reverse variance that images fit is fitted to it.

        for step in mv.fit(model, data, steps=2):
            if step.index % 1000 == 0:
                mv.save(step.ema, "model")

    Args:
        data: images (N, C, H, W), or (images, labels | captions | Condition); ImageData, or of what `load_data` gave
            the training part; a torch Dataset; a DataLoader, or anything that can be iterated, of images or of
            (images, labels | captions | Condition). Integers are pixel values, floats lie in [0, 1].
        config: the section [train]; `settings` replace parts of it (steps=, minutes=, batch=, lr=, seed=…).
        transform: of each image, before it becomes pixel values.
        flip: mirror images left-right at random.
        objective: weights over levels of your own.
        loss: loss(model, x, condition, generator) -> the loss of each image, (B,), or their mean.
    What is known of images and the network does not take is left out, said in one line. Data with a length are taken in
    a keyed order, each image once an epoch; a stream as it comes, and again from its beginning where it ends.
    Raises:
        UserError: for data that do not fit the model, an unknown setting, or fewer images than a batch.
        NonFiniteError: at a step whose loss or gradient is NaN or Inf, before it is taken.
    """
    if objective is not None and loss is not None:
        raise UserError("objective= and loss= both say what is minimized: give one of them")
    config = _settings(config, settings)
    examples = as_examples(model, data, transform, config.fit_images if is_fitted_kind(model) else 0)
    loaded = not any(weight.requires_grad for weight in model.network.parameters())
    if loaded:
        model.network.requires_grad_(True)  # to be trained on
    return _Fit(Training(model, examples, config, flip, own=loss or objective, pretrained=loaded))


@final
class _Fit(Iterator[TrainStep]):
    """The steps of a training; dropped before the first, it warns."""

    def __init__(self, training: Training) -> None:
        self._steps, self._begun = _steps(training), False

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> TrainStep:
        self._begun = True
        return next(self._steps)

    def close(self) -> None:
        """End here: the model holds the average."""
        self._begun = True
        self._steps.close()

    def __del__(self) -> None:
        if not self._begun:
            warnings.warn("fit() was never iterated: nothing was trained", stacklevel=2)


def _steps(training: Training) -> Generator[TrainStep, None, None]:
    failed = True
    try:
        with kept_memory(), training.threads.kept():
            yield from training
        failed = False
    except GeneratorExit:
        failed = False
        raise
    finally:
        if not failed:
            training.fit_variance()
        average = training.average.model
        load_weights(training.model, dict(average.named_parameters()))
        load_fitted(training.model, fitted_tensors(average))
        training.model.schedule.requires_grad_(False)
        training.model.eval()


def _settings(config: TrainConfig | None, settings: dict[str, Any]) -> TrainConfig:
    table = to_table(config or TrainConfig())
    for name, other in (("steps", "minutes"), ("minutes", "steps")):
        if settings.get(name) is not None and settings.get(other) is None:
            table.pop(other, None)
    table.update({name: value for name, value in settings.items() if value is not None})
    return from_table(TrainConfig, table, "train")
