"""Two and three processes against one: gradients, a hundred steps, and what one rank's trouble does to the others."""

import copy
import math
from dataclasses import replace

import pytest
import torch

from markovae.build import create
from markovae.config import Config
from markovae.data.images import ImageData
from markovae.errors import UserError
from markovae.system.distributed import Ranks, joined
from markovae.training import sharding
from markovae.training.batches import Ahead, Batch, Batches, BatchIndices
from markovae.training.train_step import NonFiniteError
from markovae.training.trainer import Training

CPU = torch.device("cpu")


def training(config: Config, data: ImageData, ranks: Ranks | None = None, double: bool = False) -> Training:
    model = create(config, data.shape, num_classes=len(data.class_names))
    with torch.no_grad():  # zeroed outputs hide the gradients of everything before them
        for number, weight in enumerate(model.network.parameters()):
            noise = torch.randn(weight.shape, generator=torch.Generator().manual_seed(number))
            weight += 0.05 * noise
    if double:
        model.double().precision = torch.float64
    return Training(model, data, config.train, flip=True, ranks=ranks)


def gradients(run: Training) -> dict[str, list[float]]:
    run.advance()
    return {n: w.grad.flatten().tolist() for n, w in run.model.named_parameters() if w.grad is not None}


@pytest.mark.parametrize(
    ("size", "cases"),
    [
        (
            2,
            (
                [],
                ["target.name=step_noise", "train.draw=raw", "train.level_sampling=normal"],
                ["train.objective=bound", "train.level_sampling=importance", "target.reverse=learned"],
                ["cascade.stages=2", "train.objective=bound", "train.level_sampling=importance"],
            ),
        ),
        (3, (["train.accumulate=2"], ["schedule.kind=learned", "train.objective=bound"])),
    ],
    ids=["2", "3"],
)
def test_gradients_in_float64_are_those_of_one_process(together, tiny_config: Config, tiny_data, size, cases):
    configs = [tiny_config.with_settings(["train.clip=1e30", *case]) for case in cases]

    def work():
        with joined(30.0, CPU) as ranks:
            return [gradients(training(config, tiny_data, ranks, double=True)) for config in configs]

    ended = together(work, size=size)
    assert [end.code for end in ended] == [0] * size, [end.said for end in ended]
    for number, (case, config) in enumerate(zip(cases, configs, strict=True)):
        require_alike(gradients(training(config, tiny_data, double=True)), [end.value[number] for end in ended], case)


def require_alike(one: dict[str, list[float]], several: list[dict[str, list[float]]], case: list[str]) -> None:
    """Gradients of one process and of each of several."""
    norm = math.sqrt(sum(x * x for values in one.values() for x in values))
    assert norm > 1e-3, case
    for found in several:
        assert found.keys() == one.keys(), case
        worst = max(abs(a - b) for name in one for a, b in zip(one[name], found[name], strict=True))
        assert worst < 1e-12 * norm, case


class Permuted:
    """Batches whose places are reordered, draws and all: another order of summation, nothing else."""

    def __init__(self, inner: Batches, order: torch.Tensor) -> None:
        self.inner, self.order = inner, order
        self.data, self.objective = inner.data, inner.objective

    def indices_of(self, step: int) -> BatchIndices:
        r = self.inner.indices_of(step)
        return BatchIndices(*(value[self.order] for value in (r.example, r.epoch, r.quantile, r.level)))

    def at(self, step: int, share: tuple[int, int] | None = None) -> Batch:
        b, order = self.inner.at(step), self.order
        draw = replace(b.draw, level=b.draw.level[order], noise=b.draw.noise[order])
        label = None if b.label is None else b.label[order]
        return Batch(b.example[order], b.quantile[order], b.x[order], draw, label, b.keep[order])

    def with_indices(self, step: int, share: tuple[int, int] | None = None) -> tuple[BatchIndices, Batch]:
        return self.indices_of(step), self.at(step, share)


@pytest.mark.parametrize("parallel", ["ddp", pytest.param("fsdp", marks=pytest.mark.slow)])
def test_after_twenty_four_steps_two_processes_differ_as_a_permuted_batch_does(
    together, tiny_config: Config, tiny_data, parallel: str
):
    config = tiny_config.with_settings(
        ["train.steps=24", "train.lr=0.001", "train.adamw_lr=0.001", f"train.parallel={parallel}"]
    )

    def losses(run: Training) -> torch.Tensor:
        return torch.tensor([run.advance().loss for _ in range(24)], dtype=torch.float64)

    def work():
        with joined(30.0, CPU) as ranks:
            run = training(config, tiny_data, ranks)
            found = losses(run).tolist()
            weights = torch.cat([sharding.full_tensor(w.detach()).flatten() for w in run.model.parameters()])
            return {"losses": found, "weights": weights.double().sum().item()}

    whole = losses(training(config, tiny_data))
    permuted = []
    for seed in range(3):
        run = training(config, tiny_data)
        order = torch.randperm(8, generator=torch.Generator().manual_seed(seed))
        run._ahead = Ahead(Permuted(run.batches, order), CPU)  # type: ignore[arg-type]
        permuted.append(losses(run) - whole)
    ended = together(work)
    assert ended[0].value == ended[1].value, "the ranks stay equal to the last bit"
    difference = torch.tensor(ended[0].value["losses"], dtype=torch.float64) - whole
    # The typical difference over the last steps, since a single one may be small by chance.
    typical = torch.stack([d[-12:].square().mean().sqrt() for d in permuted]).median()
    assert 0 < float(typical) < 1e-3
    assert float(difference[-12:].square().mean().sqrt()) < 3 * float(typical)


def poisoned(run: Training, what: str) -> None:
    nan = float("nan")
    weight = run.model.network.stem.weight
    if what == "input":
        at = run.batches.with_indices

        def bad(step: int, share=None) -> tuple[BatchIndices, Batch]:
            indices_of, made = at(step, share)
            made.x[0, 0, 0, 0] = nan
            return indices_of, made

        run.batches.with_indices = bad
    elif what == "gradient":
        weight.register_hook(lambda grad: grad * nan)
    else:
        with torch.no_grad():
            (weight if what == "weight" else run.average.model.network.stem.weight)[0, 0] = nan


def test_a_number_that_is_none_on_one_rank_stops_all_at_that_step(together, tiny_config, tiny_data):
    cases = {
        "input": ("the loss is nan", "the loss is nan"),
        "gradient": ("the gradient of network.stem.weight", "the gradient of network.stem.weight"),
        "weight": ("weight network.stem.weight is not finite", "rank 1 has a weight"),
        "average": ("the average of network.stem.weight is not finite", "rank 1 has a weight"),
    }

    def spoilt(what: str, ranks: Ranks):
        run = training(tiny_config, tiny_data, ranks)
        run.advance()
        run.advance()
        if ranks.here.rank == 1:
            poisoned(run, what)
        before = copy.deepcopy([w.tolist() for w in run.model.parameters()])
        said = ""
        try:
            run.advance()
        except NonFiniteError as error:
            said = str(error)
        same = [w.tolist() for w in run.model.parameters()] == before or what == "weight"
        return {"said": said, "step": run.step, "same": same}

    def work():
        with joined(30.0, CPU) as ranks:
            return [spoilt(what, ranks) for what in cases]

    ended = together(work)
    assert [end.code for end in ended] == [0, 0], [end.said for end in ended]
    for number, (what, (own, others)) in enumerate(cases.items()):
        for end, words in zip(ended, (others, own), strict=True):
            found = end.value[number]
            assert words in found["said"], what
            assert "at step 3, levels" in found["said"], what
            assert (found["step"], found["same"]) == (2, True), what


def test_more_processes_than_images_in_a_batch_are_refused(together, tiny_config: Config, tiny_data: ImageData):
    def work():
        with joined(30.0, CPU) as ranks:
            training(tiny_config.with_settings(["train.batch=2"]), tiny_data, ranks)

    for end in together(work, size=3):
        assert end.code == 2
        assert end.said == "train.batch=2 cannot be shared by 3 processes: set it to 3 or more"
    with pytest.raises(UserError, match="only 20 images"):
        training(tiny_config.with_settings(["train.batch=21"]), tiny_data)


def test_the_first_process_chooses_precision_and_length_for_all(together, tiny_config: Config, tiny_data: ImageData):
    config = tiny_config.with_settings(["train.precision=auto", "train.minutes=0.02"])

    def work():
        with joined(30.0, CPU) as ranks:
            ticks = iter(range(10**6))
            pace = 0.01 if ranks.first else 0.03
            model = create(config, tiny_data.shape, num_classes=2)
            run = Training(model, tiny_data, config.train, clock=lambda: pace * next(ticks), ranks=ranks)
            while not run.done:
                run.advance()
            return {"precision": str(run.precision.dtype), "total": run.budget.total}

    ended = together(work)
    assert [end.code for end in ended] == [0, 0], [end.said for end in ended]
    assert ended[0].value == ended[1].value
