"""`fit`: training as an iterator."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from torch import Tensor

from markovae.data.images import ImageData
from markovae.data.split import Splits
from markovae.diffusion.model import Diffusion, load_weights
from markovae.errors import UserError
from markovae.likelihood.fitting import fitted_tensors, load_fitted
from markovae.system.memory import kept_memory
from markovae.tables import from_table, to_table
from markovae.text.conditioner import attach_conditioning
from markovae.training.train_config import TrainConfig
from markovae.training.train_step import TrainStep
from markovae.training.trainer import Training


def fit(
    model: Diffusion,
    data: ImageData | Splits | np.ndarray | Tensor,
    config: TrainConfig | None = None,
    *,
    flip: bool = False,
    **settings: Any,
) -> Iterator[TrainStep]:
    """Train `model` in place and yield every step; when the iterator ends or is closed, the model holds the
    average of the weights (EMA), ready to sample and to measure; a reverse variance that images fit is fitted to it.

        for step in fit(model, images, minutes=5):
            print(step.index, step.loss)

    Args:
        data: integer images (N, C, H, W), or ImageData with labels, or captions for a model of captions; of what
            `load_data` gave, the training part.
        config: the section [train]; `settings` replace parts of it (steps=, minutes=, batch=, lr=, seed=…).
        flip: mirror images left-right at random.
    Raises:
        UserError: for data that do not fit the model, an unknown setting, or fewer images than a batch.
        NonFiniteError: at a step whose loss or gradient is no number, before it is taken.
    """
    data, config = _image_data(model, data), _settings(config, settings)
    if not any(weight.requires_grad for weight in model.network.parameters()):
        model.network.requires_grad_(True)  # one that was loaded, to be trained on
    training = Training(model, data, config, flip)
    return _steps(training)


def _steps(training: Training) -> Iterator[TrainStep]:
    failed = True
    try:
        with kept_memory():
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


def _image_data(model: Diffusion, data: ImageData | Splits | np.ndarray | Tensor) -> ImageData:
    data = data.train if isinstance(data, Splits) else data
    if not isinstance(data, ImageData):
        images = data.cpu().numpy() if isinstance(data, Tensor) else np.asarray(data)
        if not np.issubdtype(images.dtype, np.integer):
            raise UserError(f"images of type {images.dtype} must be integers 0…{model.pixels.bins - 1}: pass digits")
        if images.size and not 0 <= int(images.min()) <= int(images.max()) < model.pixels.bins:
            raise UserError(
                f"images must hold digits 0…{model.pixels.bins - 1}: the model declares {model.pixels.bins}"
            )
        data = ImageData(images.astype(np.uint8 if model.pixels.bins <= 256 else np.uint16), bins=model.pixels.bins)
    if data.shape != model.shape:
        raise UserError(f"images of shape {data.shape} do not fit the model, which takes {model.shape}")
    if data.bins != model.pixels.bins:
        raise UserError(
            f"the data have {data.bins} digits a pixel and the model {model.pixels.bins}: "
            f"build it with bins={data.bins}"
        )
    return data if model.text_conditioner is None else attach_conditioning(model, data)
