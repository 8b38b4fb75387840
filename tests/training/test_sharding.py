"""Weights spread over processes (FSDP2) against one process: gradients, a few steps, what is saved and restored."""

from dataclasses import replace

import pytest
import torch
from tests.together import Ended, forked
from tests.training.test_together import CPU, gradients, require_alike, training

from markovae.config import Config
from markovae.data.images import ImageData
from markovae.errors import UserError
from markovae.networks.network_config import NetworkConfig
from markovae.system.distributed import Ranks, joined
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


# What FSDP2 works out once in a process serves all the trainings there: those of one size share their processes.
CASES = {
    2: ([], ["train.objective=bound", "train.level_sampling=importance", "target.reverse=learned"], DDPM),
    3: (["train.accumulate=2", "network.attention=[0]", "network.head_dim=4"], DIT),
}
# Muon orthogonalizes in float32, so its steps agree to float32; AdamW's to float64.
STEPS = (([], 1e-6), (["train.optimizer=adamw", "train.weight_decay=0.1"], 1e-12))


def of_case(config: Config, case: list[str]) -> Config:
    plain = replace(config, network=NetworkConfig())
    return (plain if case in (DDPM, DIT) else config).with_settings([*FSDP, *case])


@pytest.fixture(scope="module")
def by_two(tiny_config: Config, tiny_data: ImageData, tmp_path_factory: pytest.TempPathFactory) -> list[Ended]:
    """What two processes found."""

    def work():
        with joined(60.0, CPU) as ranks:
            return {
                "gradients": [
                    whole_gradients(training(of_case(tiny_config, case), tiny_data, ranks, double=True))
                    for case in CASES[2]
                ],
                "steps": [steps(tiny_config.with_settings([*FSDP[:1], *case]), tiny_data, ranks) for case, _ in STEPS],
                "saved": saved(tiny_config, tiny_data, ranks),
                "spoilt": [spoilt(tiny_config, tiny_data, what, ranks) for what in SPOILT],
            }

    return forked(work, tmp_path_factory.mktemp("two"), limit=120.0)


@pytest.fixture(scope="module")
def by_three(
    tiny_config: Config, tiny_data: ImageData, by_two: list[Ended], tmp_path_factory: pytest.TempPathFactory
) -> list[Ended]:
    """What three processes found, and made of what two had saved."""

    def work():
        with joined(60.0, CPU) as ranks:
            return {
                "gradients": [
                    whole_gradients(training(of_case(tiny_config, case), tiny_data, ranks, double=True))
                    for case in CASES[3]
                ],
                "saved": saved(tiny_config, tiny_data, ranks, by_two[0].value["saved"]),
            }

    return forked(work, tmp_path_factory.mktemp("three"), size=3, limit=120.0)


def test_all_end_well(by_two: list[Ended], by_three: list[Ended]):
    for end in (*by_two, *by_three):
        assert end.code == 0, end.said


@pytest.mark.parametrize("size", CASES)
def test_gradients_in_float64_are_those_of_one_process(tiny_config: Config, tiny_data, by_two, by_three, size: int):
    for number, case in enumerate(CASES[size]):
        one = gradients(training(of_case(tiny_config, case), tiny_data, double=True))
        several = [end.value["gradients"][number] for end in {2: by_two, 3: by_three}[size]]
        assert len(several) == size
        require_alike(one, several, case)


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


def steps(config: Config, data: ImageData, ranks) -> dict:
    run = training(config, data, ranks, double=True)
    found = [run.advance().loss for _ in range(3)]
    held = sum(value.numel() for value in run.average.held.values())
    return {"losses": found, "state": state(run), "held": held}


def test_steps_in_float64_leave_what_one_process_leaves(tiny_config: Config, tiny_data, by_two):
    for number, (settings, close) in enumerate(STEPS):
        one = training(tiny_config.with_settings([*FSDP[:1], *settings]), tiny_data, double=True)
        losses, whole_state = [one.advance().loss for _ in range(3)], state(one)
        first, second = (end.value["steps"][number] for end in by_two)
        assert first["losses"] == pytest.approx(losses, rel=close), settings
        assert first["losses"] == second["losses"], settings
        assert distance(whole_state, first["state"]) < close, settings
        weights = sum(weight.numel() for weight in one.model.parameters())
        assert first["held"] + second["held"] == weights, "each row of the average is held once"


def saved(config: Config, data: ImageData, ranks, given=None):
    """What is saved after two steps, or after what was `given` is restored; Muon keeps some weights for AdamW."""
    run = training(config.with_settings(FSDP[:1]), data, ranks)
    if given is None:
        run.advance()
        run.advance()
    else:
        tensors, position = given
        run.restore(rebuilt(run, tensors), position)
    tensors, position = run.capture()
    return listed(tensors), position


def test_what_two_saved_is_restored_by_one_and_by_three_to_the_last_bit(
    tiny_config: Config, tiny_data, by_two, by_three
):
    whole = by_two[0].value["saved"]
    assert {name.partition(".")[2] for name in whole[0]["optimizer"]} == {"momentum", "first", "second", "step"}
    assert whole[0] == saved(tiny_config, tiny_data, Ranks(), whole)[0]
    assert whole[0] == by_three[0].value["saved"][0]


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


SPOILT = {
    "gradient": ("the gradient of", "the gradient of"),
    "weight": ("weight network.stem.weight is not finite", "rank 1 has a weight"),
    "average": ("the average of network.stem.weight is not finite", "rank 1 has a weight"),
}


def spoilt(config: Config, data: ImageData, what: str, ranks):
    run = training(config.with_settings(["train.parallel=fsdp"]), data, ranks)
    run.advance()
    if ranks.here.rank == 1:
        if what in ("weight", "average"):
            stem = run.model.network.stem.weight.detach()
            held = local_shard(stem) if what == "weight" else run.average.held["network.stem.weight"]
            held[0] = float("nan")
        else:
            run.model.network.stem.register_forward_hook(spoil)
    said = ""
    try:
        run.advance()
    except NonFiniteError as error:
        said = str(error)
    return said, run.step


def test_a_number_that_is_none_on_one_rank_stops_all_at_that_step(by_two):
    for number, (what, (own, others)) in enumerate(SPOILT.items()):
        for end, words in zip(by_two, (others, own), strict=True):
            said, step = end.value["spoilt"][number]
            assert words in said, what
            assert "at step 2, levels" in said, what
            assert step == 1, what


def test_a_schedule_that_learns_is_refused(tiny_config: Config, tiny_data: ImageData):
    config = tiny_config.with_settings(["train.parallel=fsdp", "schedule.kind=learned", "train.objective=bound"])
    with pytest.raises(UserError, match=r"schedule.kind=learned takes several: set train.parallel=ddp"):
        training(config, tiny_data)
