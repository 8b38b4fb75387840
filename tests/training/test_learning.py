"""What is learnt beside the network pays: a variance lowers the bound, a schedule the variance of its estimate."""

import pytest
import torch

from markovae.build import create
from markovae.config import Config
from markovae.data.images import ImageData
from markovae.diffusion.reverse import PosteriorVariance, StepVariance
from markovae.diffusion.schedule import LogSNRLinear
from markovae.likelihood.continuous import continuous_draws
from markovae.likelihood.measuring import measure
from markovae.networks.conditioning import Condition
from markovae.randomness import Streams, generator, stratified
from markovae.training.loop import fit

SMALL = ["network.width=32", "train.lr=0.02", "train.adamw_lr=0.01", "train.decay_start=0.5", "schedule.end=-6.0"]
LEARNED = ["schedule.kind=learned", "train.objective=bound"]


def trained(config: Config, data: ImageData, steps: int):
    model = create(config, data.shape, num_classes=len(data.class_names))
    for _ in fit(model, data, config.train, steps=steps):
        pass
    return model


def test_a_learned_variance_lowers_the_bound_of_the_same_network(tiny_config: Config, tiny_data: ImageData):
    """On twelve levels, image by image at the same noise: below β̃'s and below σ²'s by four standard errors."""
    config = tiny_config.with_settings(
        [*SMALL, "schedule.num_levels=12", "schedule.start=5.0", "target.reverse=learned", "train.label_dropout=0.0"]
    )
    model = trained(config, tiny_data, 80)
    total = {
        name: measure(each, tiny_data.images, tiny_data.labels, draws=None, seed=1).total
        for name, each in (
            ("learned", model),
            ("posterior", model.with_reverse(PosteriorVariance())),
            ("step", model.with_reverse(StepVariance())),
        )
    }
    for other in ("posterior", "step"):
        gain = total[other] - total["learned"]
        assert float(gain.mean()) > 4 * float(gain.std()) / len(gain) ** 0.5, other


def test_a_learned_schedule_lowers_the_variance_of_the_estimate_and_not_the_bound(
    tiny_config: Config, tiny_data: ImageData
):
    config = tiny_config.with_settings(
        [*SMALL, "network.width=16", "train.batch=16", "train.label_dropout=0.0", *LEARNED]
    )
    model = trained(config, tiny_data, 60)
    with torch.no_grad():
        ends = model.schedule.logsnr[[1, -1]].tolist()
        begun = create(config, tiny_data.shape, num_classes=2).schedule
        assert not torch.equal(begun.logsnr, model.schedule.logsnr)
        even = LogSNRLinear(50, *ends)
        found = {name: spread(model, tiny_data, schedule) for name, schedule in (("own", None), ("even", even))}
    assert found["own"][1] < 0.85 * found["even"][1]
    # Between the same ends the bound does not know the shape.
    error = (sum(variance for _, variance in found.values()) / 1000) ** 0.5
    assert found["own"][0] == pytest.approx(found["even"][0], abs=4 * error)


def spread(model, data: ImageData, schedule) -> tuple[float, float]:
    """(mean, variance) of 1,000 single draws of the levels' nats of the model on one schedule."""
    index = torch.arange(1000) % len(data)
    x = model.to_x(torch.from_numpy(data.images)[index])
    noise = Streams(3, "spread", range(1000)).normal(model.shape, torch.float64)
    quantile = stratified(1000, generator(3, "quantile"))[torch.randperm(1000, generator=generator(4, "order"))]
    labels = Condition(label=torch.from_numpy(data.labels)[index])
    nats = continuous_draws(model, x, noise, quantile, labels, schedule)
    return float(nats.mean()), float(nats.var())
