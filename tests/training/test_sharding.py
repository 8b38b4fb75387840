"""Weights spread over processes (FSDP2) against one process: gradients, a hundred steps, what is saved and restored."""

import math
from dataclasses import replace

import pytest
import torch
from tests.training.test_together import CPU, gradients, poisoned, training

from markovae.config import Config
from markovae.data.images import ImageData
from markovae.errors import UserError
from markovae.networks.network_config import NetworkConfig
from markovae.system.distributed import joined
from markovae.training.sharding import full_tensor, is_sharded, local_shard
from markovae.training.train_step import NonFiniteError

DDPM = ["network.kind=ddpm", "network.ddpm.widths=[8]", "network.ddpm.attention=[0]", "network.ddpm.groups=4"]
DIT = ["network.kind=dit", "network.dit.width=8", "network.dit.depth=2", "network.dit.head_dim=4"]
FSDP = ["train.parallel=fsdp", "train.clip=1e30"]


def whole_gradients(run):
    run.advance()
    weights = dict(run.model.named_parameters())
    assert all(is_sharded(weight) for weight in weights.values())
    held = sum(local_shard(weight).numel() for weight in weights.values())
    assert held < 0.7 * sum(weight.numel() for weight in weights.values())
    return {n: full_tensor(w.grad).flatten().tolist() for n, w in weights.items() if w.grad is not None}


# What FSDP2 works out once in a process serves all the trainings there: the cases of one size share their processes.
@pytest.mark.parametrize(
    ("size", "cases"),
    [
        (2, ([], ["train.objective=bound", "train.level_sampling=importance", "target.reverse=learned"], DDPM)),
        (3, (["train.accumulate=2", "network.attention=[0]", "network.head_dim=4"], DIT)),
    ],
    ids=["2", "3"],
)
def test_gradients_in_float64_are_those_of_one_process(together, tiny_config: Config, tiny_data, size, cases):
    plain = replace(tiny_config, network=NetworkConfig())
    configs = [(plain if case in (DDPM, DIT) else tiny_config).with_settings([*FSDP, *case]) for case in cases]

    def work():
        with joined(30.0, CPU) as ranks:
            return [whole_gradients(training(config, tiny_data, ranks, double=True)) for config in configs]

    ended = together(work, size=size)
    assert [end.code for end in ended] == [0] * size, [end.said for end in ended]
    for number, (case, config) in enumerate(zip(cases, configs, strict=True)):
        one = gradients(training(config, tiny_data, double=True))
        norm = math.sqrt(sum(x * x for values in one.values() for x in values))
        assert norm > 1e-3, case
        for found in (end.value[number] for end in ended):
            assert found.keys() == one.keys(), case
            worst = max(abs(a - b) for name in one for a, b in zip(one[name], found[name], strict=True))
            assert worst < 1e-12 * norm, case


def state(run) -> dict[str, dict[str, list[float]]]:
    """What would be saved, as JSON holds it to the last bit; empty on all but the first process."""
    return listed(run.capture()[0])


def listed(tensors) -> dict[str, dict[str, list[float]]]:
    """Tensors as JSON holds them."""
    return {f: {n: v.double().flatten().tolist() for n, v in table.items()} for f, table in tensors.items()}


def distance(one: dict, other: dict) -> float:
    """The largest ‖a − b‖/‖a‖ over the files."""
    assert one.keys() == other.keys()
    assert all(one[file].keys() == other[file].keys() for file in one)
    pairs = [
        [torch.cat([torch.tensor(table[file][name], dtype=torch.float64) for name in table[file]]) for table in (a, b)]
        for a, b in [(one, other)]
        for file in one
    ]
    return max(float((a - b).norm() / a.norm()) for a, b in pairs)


def test_steps_in_float64_leave_what_one_process_leaves(together, tiny_config: Config, tiny_data):
    """Muon orthogonalises in float32, so its steps agree to float32; AdamW's to float64."""
    cases = (([], 1e-6), (["train.optimizer=adamw", "train.weight_decay=0.1"], 1e-12))
    configs = [tiny_config.with_settings(["train.parallel=fsdp", *settings]) for settings, _ in cases]

    def steps(config: Config, ranks):
        run = training(config, tiny_data, ranks, double=True)
        found = [run.advance().loss for _ in range(6)]
        held = sum(value.numel() for value in run.average.held.values())
        return {"losses": found, "state": state(run), "held": held}

    def work():
        with joined(30.0, CPU) as ranks:
            return [steps(config, ranks) for config in configs]

    ended = together(work)
    assert [end.code for end in ended] == [0, 0], [end.said for end in ended]
    for number, (settings, close) in enumerate(cases):
        one = training(configs[number], tiny_data, double=True)
        losses, whole_state = [one.advance().loss for _ in range(6)], state(one)
        first, second = (end.value[number] for end in ended)
        assert first["losses"] == pytest.approx(losses, rel=close), settings
        assert first["losses"] == second["losses"], settings
        assert distance(whole_state, first["state"]) < close, settings
        weights = sum(weight.numel() for weight in one.model.parameters())
        assert first["held"] + second["held"] == weights, "each row of the average is held once"


def test_what_two_saved_is_restored_by_one_and_by_three_to_the_last_bit(together, tiny_config: Config, tiny_data):
    optimizers, saved = ("muon", "adamw"), []

    def made(optimizer: str, ranks, given):
        config = tiny_config.with_settings(["train.parallel=fsdp", f"train.optimizer={optimizer}"])
        run = training(config, tiny_data, ranks)
        if given is not None:
            tensors, position = given
            run.restore(rebuilt(run, tensors), position)
        else:
            run.advance()
            run.advance()
        tensors, position = run.capture()
        return listed(tensors), position

    for size in (2, 1, 3):

        def work(given=saved[-1] if saved else (None, None)):
            with joined(30.0, CPU) as ranks:
                return [made(name, ranks, kept) for name, kept in zip(optimizers, given, strict=True)]

        ended = together(work, size=size)
        assert [end.code for end in ended] == [0] * size, [end.said for end in ended]
        saved.append(ended[0].value)
    for number, name in enumerate(optimizers):
        states = [each[number][0] for each in saved]
        assert states[0] == states[1] == states[2], name


def rebuilt(run, tensors):
    """Lists as the tensors they were."""
    shapes = {name: weight.shape for name, weight in run.model.named_parameters()}
    hidden = [weight.shape for group in run.optimizer.param_groups for weight in group["params"]]

    def shape(file: str, name: str):
        if file != "optimizer":
            return shapes[name]
        index, _, what = name.partition(".")
        return () if what == "step" else hidden[int(index)]

    return {f: {n: torch.tensor(v).reshape(shape(f, n)) for n, v in t.items()} for f, t in tensors.items()}


def spoil(module, inputs, output) -> None:
    """Gradients of this layer's weights will be no numbers, and the loss will be one."""
    output.register_hook(lambda gradient: gradient * float("nan"))


def test_a_number_that_is_none_on_one_rank_stops_all_at_that_step(together, tiny_config, tiny_data):
    config = tiny_config.with_settings(["train.parallel=fsdp"])
    cases = {
        "input": ("the loss is nan", "the loss is nan"),
        "gradient": ("the gradient of", "the gradient of"),
        "weight": ("weight network.stem.weight is not finite", "rank 1 has a weight"),
        "average": ("the average of network.stem.weight is not finite", "rank 1 has a weight"),
    }

    def spoilt(what: str, ranks):
        run = training(config, tiny_data, ranks)
        run.advance()
        run.advance()
        if ranks.here.rank == 1:
            if what in ("weight", "average"):
                stem = run.model.network.stem.weight.detach()
                held = local_shard(stem) if what == "weight" else run.average.held["network.stem.weight"]
                held[0] = float("nan")
            elif what == "gradient":
                run.model.network.stem.register_forward_hook(spoil)
            else:
                poisoned(run, what)
        said = ""
        try:
            run.advance()
        except NonFiniteError as error:
            said = str(error)
        return said, run.step

    def work():
        with joined(30.0, CPU) as ranks:
            return [spoilt(what, ranks) for what in cases]

    ended = together(work)
    assert [end.code for end in ended] == [0, 0], [end.said for end in ended]
    for number, (what, (own, others)) in enumerate(cases.items()):
        for end, words in zip(ended, (others, own), strict=True):
            said, step = end.value[number]
            assert words in said, what
            assert "at step 3, levels" in said, what
            assert step == 2, what


def test_a_schedule_that_learns_is_refused(tiny_config: Config, tiny_data: ImageData):
    config = tiny_config.with_settings(["train.parallel=fsdp", "schedule.kind=learned", "train.objective=bound"])
    with pytest.raises(UserError, match=r"schedule.kind=learned takes several: set train.parallel=ddp"):
        training(config, tiny_data)
