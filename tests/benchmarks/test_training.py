"""The benchmark of training on a tiny network: equal losses, rounds, the floor."""

import json
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

if find_spec("diffusers") is None:  # looked for, not imported, which takes seconds
    pytest.skip("diffusers is not installed", allow_module_level=True)
ROOT = Path(__file__).parents[2]
FAST = ["--threads", "1", "--sizes", "64"]


@pytest.fixture(autouse=True)
def scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The benchmarks import one another as scripts do, in the processes they start too."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    monkeypatch.setenv("PYTHONPATH", f"{ROOT / 'benchmarks'}:{ROOT / 'src'}")
    monkeypatch.setattr(sys, "dont_write_bytecode", True)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_both_sides_take_the_same_steps_and_are_timed(tmp_path: Path) -> None:
    import training

    target = tmp_path / "record.json"
    tiny = ["--networks", "tiny", "--batch", "4", "--rounds", "3", "--seconds", "1", "--out", str(target)]
    assert training.main([*FAST, *tiny]) == 0
    record = json.loads(target.read_bytes())
    found = record["networks"]["tiny"]
    assert set(found["images_a_second"]) == {"ours", "default", *training.BEST} == set(found["peak_bytes"])
    assert all(rate["low"] > 0 and rate["rounds"] == 3 for rate in found["images_a_second"].values())
    assert max(found["losses"]["largest_difference"].values()) < 0.01
    assert found["losses"]["largest_difference"]["ours, float32"] < 1e-4
    assert 0 < found["share_of_peak"]["median"] < 1
    assert min(found["peak_bytes"].values()) > 50 * 2**20


def test_the_network_is_the_peers_with_the_peers_weights_and_operations() -> None:
    from performance_networks import flops, model_of, network_of, peer_of

    model = model_of("tiny")
    unet = peer_of(model)
    z, t = torch.randn(2, *model.shape), torch.tensor([3, 700])
    expected = unet(z, t).sample
    ours = network_of(model)(z, model.schedule.logsnr[t + 1])
    assert float(expected.detach().abs().max()) > 0.01
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)
    once = flops(unet, model.shape, 2, train=False)
    assert 2.5 * once < flops(unet, model.shape, 2) < 3.1 * once


def test_losses_that_differ_stop_it(monkeypatch: pytest.MonkeyPatch) -> None:
    import training

    monkeypatch.setattr(training, "LIMIT", -1.0)
    options = training.parsed([*FAST, "--batch", "4"])
    model = training.model_of("tiny")
    with pytest.raises(SystemExit, match="losses of the same steps differ"):
        training.compared(model, training.images_for(model, 8), options)


def test_rounds_turn_and_keep_to_their_time() -> None:
    import machine

    calls: list[str] = []
    steppers = {name: lambda count, name=name: calls.append(name) or 0.5 * count for name in "ab"}
    times, count = machine.alternate(steppers, 3, 0.01)
    assert times == {"a": [0.5] * 3, "b": [0.5] * 3}
    assert calls[4:] == ["a", "b", "b", "a", "a", "b"]
    assert count >= 1
    with pytest.raises(SystemExit, match="threads"):
        machine.clock_of(machine.argparse.Namespace(clock="cpu", threads=2))
