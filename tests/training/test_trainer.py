import copy
from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from markovae.build import create
from markovae.config import Config
from markovae.data.images import ImageData
from markovae.diffusion import forward
from markovae.diffusion.objective import nats_weight
from markovae.errors import UserError
from markovae.networks.conditioning import Condition
from markovae.training.budget import rate_factor
from markovae.training.train_step import NonFiniteError
from markovae.training.trainer import Training


def training(config: Config, data: ImageData, seed: int = 0, **settings) -> Training:
    model = create(config.with_settings([f"train.seed={seed}"]), data.shape, num_classes=len(data.class_names))
    return Training(model, data, config.train, **settings)


def snapshot(run: Training) -> tuple[dict, dict]:
    return copy.deepcopy(run.capture())


def assert_same(a: tuple[dict, dict], b: tuple[dict, dict]) -> None:
    for file in ("model", "ema", "optimizer"):
        assert a[0][file].keys() == b[0][file].keys()
        assert all(torch.equal(a[0][file][name], b[0][file][name]) for name in a[0][file])
    for key in ("step", "images_seen", "total_steps", "precision"):
        assert a[1][key] == b[1][key]


def finish(run: Training) -> tuple[dict, dict]:
    while not run.done:
        run.advance()
    return snapshot(run)


@pytest.mark.parametrize(
    "settings",
    [
        [],
        ["train.optimizer=adamw", "train.weight_decay=0.1", "train.accumulate=3"],
        ["train.precision=bfloat16", "network.dropout=0.3", "train.level_sampling=normal"],
        ["target.name=step_noise", "train.draw=raw", "train.accumulate=2"],
    ],
)
def test_resume_is_bitwise_after_any_interruption(tiny_config: Config, tiny_data: ImageData, settings: list[str]):
    config = tiny_config.with_settings([*settings, "train.steps=6"])
    whole = finish(training(config, tiny_data, flip=True))
    run = training(config, tiny_data, flip=True)
    for step in range(6):
        if step in (0, 2, 5):  # mid-epoch and across one
            saved = snapshot(run)
            resumed = training(config, tiny_data, seed=99, flip=True)
            resumed.restore(*saved)
            torch.manual_seed(step)  # the global generator plays no part
            assert_same(finish(resumed), whole)
        run.advance()
    assert_same(snapshot(run), whole)


def test_a_run_in_minutes_replays_its_fixed_length(tiny_config: Config, tiny_data: ImageData):
    config = tiny_config.with_settings(["train.minutes=0.01"])
    ticks = iter(range(10**6))

    def clock() -> float:
        return 0.01 * next(ticks)

    run = training(config, tiny_data, clock=clock)
    while run.budget.total is None:
        run.advance()
    total, saved = run.budget.total, snapshot(run)
    assert run.step < total
    assert saved[1]["total_steps"] == total
    ends = []
    for pace in (0.0, 5.0):
        ticks = iter(range(10**6))
        resumed = training(config, tiny_data, clock=lambda pace=pace, ticks=ticks: pace * next(ticks))
        resumed.restore(*saved)
        ends.append(finish(resumed))
        assert resumed.step == total
    assert_same(*ends)


def test_a_longer_budget_extends_a_finished_run(tiny_config: Config, tiny_data: ImageData):
    run = training(tiny_config, tiny_data)
    finish(run)
    run.extend(steps=15)
    assert not run.done
    rate = run.advance().lr
    assert rate == pytest.approx(tiny_config.train.lr * rate_factor(12, 15, 3, 0.5))
    finish(run)
    assert run.step == 15


def test_a_longer_time_goes_on_with_the_rate_that_its_end_asks_for(tiny_config: Config, tiny_data: ImageData):
    """Not with the peak rate, which would undo what the last steps settled."""
    ticks = iter(range(10**6))
    run = training(tiny_config, tiny_data, clock=lambda: 0.01 * next(ticks))
    finish(run)
    spent = run.seconds
    run.extend(minutes=1.25 * spent / 60)
    total = run.budget.expected
    assert run.budget.total is None
    assert total in (14, 15)  # a quarter more, less what the clock took to be asked
    rate = run.advance().lr
    assert rate == pytest.approx(tiny_config.train.lr * rate_factor(12, total, 3, 0.5))


def test_steps_report_what_they_did(tiny_config: Config, tiny_data: ImageData):
    run = training(tiny_config, tiny_data)
    steps = [run.advance() for _ in range(12)]
    assert [step.index for step in steps] == list(range(1, 13))
    assert [step.images_seen for step in steps] == [8 * i for i in range(1, 13)]
    assert [step.lr for step in steps] == pytest.approx(
        [tiny_config.train.lr * rate_factor(i, 12, 3, 0.5) for i in range(12)]
    )
    assert all(step.total == 12 and step.grad_norm > 0 and step.images_per_second > 0 for step in steps)
    assert all(a.seconds <= b.seconds for a, b in pairwise(steps))


@pytest.mark.parametrize("distribution", ["uniform", "normal"])
def test_the_nats_of_a_step_are_the_bounds_own(tiny_config: Config, tiny_data: ImageData, distribution: str):
    run = training(
        tiny_config.with_settings([f"train.level_sampling={distribution}"]),
        replace(tiny_data, labels=None, class_names=()),
    )
    model, batch, objective = run.model, run.batches.at(0), run.objective
    logsnr, level = model.schedule.logsnr, batch.draw.level
    with torch.no_grad():
        z = forward.noised(batch.x, batch.draw.noise, logsnr[level])
        kl = model.reverse.kl(batch.x, model.denoise(z, logsnr[level]), logsnr[level - 1], logsnr[level])
    share = kl / objective.probability[level - 1]
    expected = torch.where(level == 1, 0.0, share).mean()
    assert run.advance().nats == pytest.approx(float(expected), rel=1e-4)


@pytest.mark.parametrize("target", ["step_noise", "mean"])
@pytest.mark.parametrize("draw", ["rao_blackwell", "raw", "literal"])
def test_the_nats_of_a_step_know_how_the_target_was_drawn(
    tiny_config: Config, tiny_data: ImageData, target: str, draw: str
):
    """A raw draw's scatter, which no network removes, is no part of the bound."""
    run = training(tiny_config.with_settings([f"target.name={target}", f"train.draw={draw}"]), tiny_data)
    batch, model = run.batches.at(0), run.model
    logsnr, level = model.schedule.logsnr, batch.draw.level
    now, before, wanted = logsnr[level], logsnr[level - 1], batch.draw
    if draw == "rao_blackwell":
        assert wanted.fresh is None
        t = model.target.of(batch.x, wanted.noise, now, before)
    else:
        t = model.target.of_sample(batch.x, wanted.noise, wanted.fresh, now, before)
    spread = model.target.residual(logsnr[:-1], logsnr[1:])[1] ** 2 * (draw != "rao_blackwell")
    with torch.no_grad():
        condition = Condition(label=batch.label).drop(batch.keep)
        out = model.network(forward.noised(batch.x, wanted.noise, now), now, condition)
    error = ((out - t).double() ** 2).flatten(1).mean(1)
    share = model.dims * nats_weight(model.target, model.schedule)[level - 1] * (error - spread[level - 1])
    expected = torch.where(level == 1, 0.0, share / run.objective.probability[level - 1]).mean()
    step = run.advance()
    assert step.loss == pytest.approx(float(error.mean()), rel=1e-4)
    assert step.nats == pytest.approx(float(expected), rel=1e-3)


def test_only_targets_of_one_step_have_a_raw_sample(tiny_config: Config, tiny_data: ImageData):
    with pytest.raises(UserError, match=r"train\.draw=raw .* target 'velocity' has none of: set target\.name to"):
        training(tiny_config.with_settings(["train.draw=raw"]), tiny_data)
    assert training(tiny_config.with_settings(["train.draw=literal"]), tiny_data).advance().loss > 0


@pytest.mark.parametrize("draw", ["rao_blackwell", "raw", "literal"])
def test_parts_of_a_batch_give_the_gradient_of_the_whole(tiny_config: Config, tiny_data: ImageData, draw: str):
    config = tiny_config.with_settings(["target.name=step_noise", f"train.draw={draw}"])
    whole = training(config, tiny_data).advance()
    parts = training(config.with_settings(["train.accumulate=3"]), tiny_data).advance()
    assert parts.loss == pytest.approx(whole.loss, rel=1e-6)
    assert parts.grad_norm == pytest.approx(whole.grad_norm, rel=1e-5)


def test_the_gradient_is_clipped_to_its_limit_and_logged_before(tiny_config: Config, tiny_data: ImageData):
    free = training(tiny_config.with_settings(["train.clip=1e9"]), tiny_data)
    bound = training(tiny_config.with_settings(["train.clip=0.01"]), tiny_data)
    assert bound.advance().grad_norm == free.advance().grad_norm > 0.01
    norms = [
        float(torch.stack([w.grad.norm() for w in run.model.parameters() if w.grad is not None]).norm())
        for run in (free, bound)
    ]
    assert norms[1] == pytest.approx(0.01, rel=1e-3)
    assert norms[0] > norms[1]


def poison_weight(run: Training) -> None:
    with torch.no_grad():
        run.model.network.head.bias[0] = torch.nan


def poison_gradient(run: Training) -> None:
    run.model.network.stem.weight.register_hook(lambda grad: grad * torch.inf)


def poison_average(run: Training) -> None:
    run.average.model.network.head.bias[0] = torch.nan


def poison_input(run: Training) -> None:
    run.model.network.stem.register_forward_pre_hook(lambda module, inputs: (inputs[0] * torch.nan,))


def poison_loss(run: Training) -> None:
    run.model.network.register_forward_hook(lambda module, inputs, output: output * torch.inf)


@pytest.mark.parametrize(
    ("poison", "words"),
    [
        (poison_average, r"the average of network\.head\.bias is not finite at step 3"),
        (poison_input, r"the loss is nan at step 3"),
        (poison_loss, r"the loss is (nan|inf) at step 3"),
        (poison_weight, r"weight network\.head\.bias is not finite at step 3"),
        (poison_gradient, r"the gradient of network\.stem\.weight"),
    ],
)
def test_a_number_that_is_none_stops_before_optimizer_and_average(
    tiny_config: Config, tiny_data: ImageData, poison, words: str
):
    run = training(tiny_config, tiny_data)
    run.advance()
    run.advance()
    poison(run)
    before = {name: value.detach().clone() for name, value in run.model.named_parameters()}
    average = {name: value.clone() for name, value in run.average.model.named_parameters()}
    moments = {name: value.clone() for name, value in run.optimizer.state_tensors().items()}
    with pytest.raises(NonFiniteError, match=words) as caught:
        run.advance()
    example, level = run.batches.at(2).example[0], run.batches.at(2).draw.level[0]
    assert f"levels {level}, " in str(caught.value)
    assert f"training images {example}, " in str(caught.value)
    assert run.step == 2
    for kept, now in (
        (before, dict(run.model.named_parameters())),
        (average, dict(run.average.model.named_parameters())),
        (moments, run.optimizer.state_tensors()),
    ):
        assert all(torch.equal(value.nan_to_num(), now[name].nan_to_num()) for name, value in kept.items())


def test_only_the_bad_examples_are_named(tiny_config: Config, tiny_data: ImageData):
    run = training(tiny_config, tiny_data)
    first = run.batches.at(0)
    third = int(first.example[2])

    def break_third(module, inputs, output):
        output = output.clone()
        output[2] = torch.inf
        return output

    run.model.network.register_forward_hook(break_third)
    with pytest.raises(NonFiniteError, match=f"levels {int(first.draw.level[2])}, training images {third}: the step"):
        run.advance()


@pytest.mark.parametrize("where", ["model", "average"])
def test_a_poisoned_weight_is_never_captured(tiny_config: Config, tiny_data: ImageData, where: str):
    run = training(tiny_config, tiny_data)
    model = run.model if where == "model" else run.average.model
    with torch.no_grad():
        model.network.stem.weight[0] = torch.inf
    with pytest.raises(NonFiniteError, match=r"network\.stem\.weight is not finite after step 0: it is not saved"):
        run.capture()


def test_a_state_of_another_model_is_refused(tiny_config: Config, tiny_data: ImageData):
    saved = snapshot(training(tiny_config, tiny_data))
    wider = training(tiny_config.with_settings(["network.width=16"]), tiny_data)
    with pytest.raises(ValueError, match="where this model takes"):
        wider.restore(*saved)


def test_labels_given_to_a_network_without_classes_are_an_error(tiny_config: Config, tiny_data: ImageData):
    model = create(tiny_config, tiny_data.shape)
    with pytest.raises(ValueError, match="takes no labels"):
        Training(model, tiny_data, tiny_config.train).advance()


@pytest.mark.parametrize("scale", [1e4, 1e9, 1e15, 1e36])
@pytest.mark.parametrize("kind", ["isotropic", "diagonal"])
def test_weights_too_large_for_a_fitted_variance_stop_the_run(
    tiny_config: Config, tiny_data: ImageData, kind: str, scale: float
):
    config = tiny_config.with_settings([f"target.reverse={kind}"])
    training = Training(create(config, tiny_data.shape, num_classes=2), tiny_data, config.train)
    for weight in training.average.model.network.parameters():
        weight.data.fill_(scale)
    with pytest.raises(
        NonFiniteError, match=r"the reverse variance cannot be fitted after step 0: the (model|network)'s"
    ):
        training.fit_variance()


def test_a_learned_schedule_that_says_nothing_is_neither_kept_nor_saved(tiny_config: Config, tiny_data: ImageData):
    settings = ["schedule.kind=learned", "train.objective=bound", "train.adamw_lr=1e30", "train.warmup_steps=0"]
    config = tiny_config.with_settings(settings)
    training = Training(create(config, tiny_data.shape, num_classes=2), tiny_data, config.train)
    with pytest.raises(NonFiniteError, match="after step 1: it is not kept"):
        training.advance()
    with pytest.raises(NonFiniteError):
        training.capture()
