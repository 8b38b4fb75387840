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


@pytest.mark.parametrize(
    ("size", "settings"),
    [
        (2, []),
        (3, ["train.accumulate=2", "network.attention=[0]", "network.head_dim=4"]),
        (2, ["train.objective=bound", "train.level_sampling=importance", "target.reverse=learned"]),
        (2, DDPM),
        (3, DIT),
    ],
)
def test_gradients_in_float64_are_those_of_one_process(together, tiny_config: Config, tiny_data, size, settings):
    base = tiny_config if settings not in (DDPM, DIT) else replace(tiny_config, network=NetworkConfig())
    config = base.with_settings([*FSDP, *settings])

    def work():
        with joined(30.0, CPU) as ranks:
            return whole_gradients(training(config, tiny_data, ranks, double=True))

    one = gradients(training(config, tiny_data, double=True))
    norm = math.sqrt(sum(x * x for values in one.values() for x in values))
    assert norm > 1e-3
    for end in together(work, size=size):
        assert end.code == 0, end.said
        assert end.value.keys() == one.keys()
        worst = max(abs(a - b) for name in one for a, b in zip(one[name], end.value[name], strict=True))
        assert worst < 1e-12 * norm


def state(run) -> dict[str, dict[str, list[float]]]:
    """What would be saved, as JSON holds it to the last bit; empty on all but the first process."""
    tensors, _ = run.capture()
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


@pytest.mark.parametrize("settings", [[], ["train.optimizer=adamw", "train.weight_decay=0.1"]], ids=["muon", "adamw"])
def test_steps_in_float64_leave_what_one_process_leaves(together, tiny_config: Config, tiny_data, settings):
    """Muon orthogonalises in float32, so its steps agree to float32; AdamW's to float64."""
    config = tiny_config.with_settings(["train.parallel=fsdp", *settings])

    def work():
        with joined(30.0, CPU) as ranks:
            run = training(config, tiny_data, ranks, double=True)
            found = [run.advance().loss for _ in range(6)]
            held = sum(value.numel() for value in run.average.held.values())
            return {"losses": found, "state": state(run), "held": held}

    one = training(config, tiny_data, double=True)
    losses, whole_state = [one.advance().loss for _ in range(6)], state(one)
    ended = together(work)
    assert [end.code for end in ended] == [0, 0], [end.said for end in ended]
    close = 1e-12 if settings else 1e-6
    assert ended[0].value["losses"] == pytest.approx(losses, rel=close)
    assert ended[0].value["losses"] == ended[1].value["losses"]
    assert distance(whole_state, ended[0].value["state"]) < close
    weights = sum(weight.numel() for weight in one.model.parameters())
    assert sum(end.value["held"] for end in ended) == weights, "each row of the average is held once"


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_what_two_saved_is_restored_by_one_and_by_three_to_the_last_bit(
    together, tiny_config: Config, tiny_data, optimizer: str
):
    config = tiny_config.with_settings(["train.parallel=fsdp", f"train.optimizer={optimizer}"])
    saved = []
    for size in (2, 1, 3):

        def work(given=saved[-1] if saved else None):
            with joined(30.0, CPU) as ranks:
                run = training(config, tiny_data, ranks)
                if given is not None:
                    tensors, position = given
                    run.restore(rebuilt(run, tensors), position)
                else:
                    run.advance()
                    run.advance()
                return {"state": state(run), "position": run.capture()[1]}

        ended = together(work, size=size)
        assert [end.code for end in ended] == [0] * size, [end.said for end in ended]
        saved.append((ended[0].value["state"], ended[0].value["position"]))
    assert saved[0][0] == saved[1][0] == saved[2][0]


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


@pytest.mark.parametrize(
    ("what", "own", "others"),
    [
        ("input", "the loss is nan", "the loss is nan"),
        ("gradient", "the gradient of", "the gradient of"),
        ("weight", "weight network.stem.weight is not finite", "rank 1 has a weight"),
        ("average", "the average of network.stem.weight is not finite", "rank 1 has a weight"),
    ],
)
def test_a_number_that_is_none_on_one_rank_stops_all_at_that_step(together, tiny_config, tiny_data, what, own, others):
    config = tiny_config.with_settings(["train.parallel=fsdp"])

    def work():
        with joined(30.0, CPU) as ranks:
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
            return {"said": said, "step": run.step}

    for rank, end in enumerate(together(work)):
        assert end.code == 0, end.said
        assert (own if rank == 1 else others) in end.value["said"]
        assert "at step 3, levels" in end.value["said"]
        assert end.value["step"] == 2


def test_a_schedule_that_learns_is_refused(tiny_config: Config, tiny_data: ImageData):
    config = tiny_config.with_settings(["train.parallel=fsdp", "schedule.kind=learned", "train.objective=bound"])
    with pytest.raises(UserError, match=r"schedule.kind=learned takes several: set train.parallel=ddp"):
        training(config, tiny_data)
