import pytest
import torch

from markovae.training.precision import probe, without_timing


class Machine:
    """Steps that take stated times on a clock of their own."""

    def __init__(self, plain: float, use_bf16: float, first: float = 0.0) -> None:
        self.times = {torch.float32: plain, torch.bfloat16: use_bf16}
        self.first, self.now, self.steps = first, 0.0, []

    def step(self, dtype: torch.dtype) -> None:
        self.now += self.times[dtype] + (0.0 if dtype in self.steps else self.first)
        self.steps.append(dtype)

    def clock(self) -> float:
        return self.now


@pytest.mark.parametrize(
    ("plain", "use_bf16", "chosen"),
    [(0.4, 0.2, torch.bfloat16), (0.4, 0.39, torch.float32), (0.4, 0.4, torch.float32), (0.2, 0.9, torch.float32)],
)
def test_bfloat16_is_taken_only_where_it_pays(plain: float, use_bf16: float, chosen: torch.dtype):
    machine = Machine(plain, use_bf16)
    choice = probe(machine.step, machine.clock)
    assert choice.dtype == chosen
    assert f"{1000 * plain:.0f} ms for a small step in float32, {1000 * use_bf16:.0f} ms in bfloat16" in choice.reason


def test_three_steps_are_timed_and_the_first_of_a_kind_is_not():
    machine = Machine(0.4, 0.3, first=0.2)
    assert "400 ms for a small step in float32, 300 ms" in probe(machine.step, machine.clock).reason
    assert machine.steps == [torch.float32] * 4 + [torch.bfloat16] * 4


def test_a_slow_first_step_decides_nothing():
    # On a cold machine the first bfloat16 step took twice a float32 step, and the later ones two thirds of it.
    machine = Machine(0.4, 0.3, first=1.0)
    assert probe(machine.step, machine.clock).dtype == torch.bfloat16


def test_a_slow_bfloat16_is_given_up_after_two_steps():
    machine = Machine(0.4, 0.9)
    assert probe(machine.step, machine.clock).dtype == torch.float32
    assert machine.steps.count(torch.bfloat16) == 2


def test_a_hopeless_bfloat16_is_given_up_after_one_step():
    machine = Machine(0.4, 20.0)
    assert probe(machine.step, machine.clock).dtype == torch.float32
    assert machine.steps.count(torch.bfloat16) == 1


@pytest.mark.parametrize(("capability", "timed"), [("AVX2", False), ("AVX512", True), ("DEFAULT", True)])
def test_nothing_is_timed_where_bfloat16_is_emulated(
    capability: str, timed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    choice = without_timing(torch.device("cpu"))
    assert (choice is None) == timed
    assert timed or choice.dtype == torch.float32
    assert without_timing(torch.device("cuda")) is None
