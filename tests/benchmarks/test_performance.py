"""The benchmarks of speed on tiny networks, and the page made of their records."""

import json
import sys
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest
import torch

if find_spec("diffusers") is None:  # looked for, not imported, which takes seconds
    pytest.skip("diffusers is not installed", allow_module_level=True)
ROOT = Path(__file__).parents[2]
FAST = ["--threads", "1", "--sizes", "64"]
TINY = [*FAST, "--networks", "tiny", "--batch", "2"]


class Here:
    """A contender in this process."""

    def __init__(self, make: Any, *arguments: Any, threads: int, clock: str) -> None:
        from contenders import _peak, _taken
        from machine import CLOCKS

        step = make(*arguments)
        self.steps = lambda count: _taken(step, count, CLOCKS[clock])
        self.peak = lambda: 1024 * _peak()

    def __enter__(self) -> "Here":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        pass


@pytest.fixture(autouse=True)
def scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The benchmarks import one another as scripts do."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    monkeypatch.setenv("PYTHONPATH", f"{ROOT / 'benchmarks'}:{ROOT / 'src'}")
    monkeypatch.setattr(sys, "dont_write_bytecode", True)


@pytest.fixture
def record(tmp_path: Path) -> Any:
    """Run a benchmark; its record."""

    def run(module: Any, *arguments: str) -> dict[str, Any]:
        target = tmp_path / "record.json"
        assert module.main([*arguments, "--out", str(target), "--note", "tested"]) == 0
        found: dict[str, Any] = json.loads(target.read_bytes())
        assert found["note"] == "tested"
        assert found["machine"]["threads"] == 1
        assert found["machine"]["matmul_gflops"]["float32"] > 0
        return found

    return run


def page_of(name: str, found: dict[str, Any]) -> str:
    import pages

    text = pages.pages({f"performance_{name}": found})[pages.DOCS / "performance.md"].decode()
    assert "tested" in text
    return text


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_sampling_and_measuring(record, monkeypatch):
    import sampling

    monkeypatch.setattr(sampling, "Contender", Here)
    found = record(sampling, *TINY, "--rounds", "3", "--seconds", "0.5", "--calls", "3")
    network = found["networks"]["tiny"]
    assert len(network["images_a_second"]) == 12
    assert all(0 < rate["low"] <= rate["median"] <= rate["high"] for rate in network["images_a_second"].values())
    assert set(network["ours_over_diffusers"]) == {
        f"{solver}, {precision}" for solver in ("ddim", "dpmpp2m") for precision in ("float32", "bfloat16")
    }
    assert "| ddim, float32, 3 calls |" in page_of("sampling", found)


@pytest.mark.filterwarnings("ignore")
def test_what_is_measured_by_wrapping_the_peer_is_what_ours_says():
    import markovae as mv
    from performance_networks import images_for, model_of, peer_of

    model = model_of("tiny")
    images = images_for(model, 2).images
    wrapped = mv.wrap(peer_of(model), model.shape, model.schedule)
    mine, other = (mv.measure(m, images, draws=3).bits_per_dim.value for m in (model, wrapped))
    assert mine == pytest.approx(other, rel=1e-4)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_memory_of_contenders(record, monkeypatch):
    import memory

    monkeypatch.setattr(memory, "Contender", Here)
    found = record(memory, *TINY, "--batch", "4", "--steps", "2")
    network = found["networks"]["tiny"]
    assert network["libraries"]["step_seconds"] is None
    assert {"ours", "ours, both", "diffusers, default"} < set(network)
    assert all(value["peak_bytes"] > 2**20 for value in network.values())
    assert "| ours, train.checkpointing |" in page_of("memory", found)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_compiling_pays_after_what_it_cost_over_what_it_gains(record, monkeypatch):
    from functools import partial

    import compiling
    from markovae.training import precision as preparing

    monkeypatch.setattr(compiling, "Contender", Here)
    monkeypatch.setattr(preparing, "_missing", lambda device: None)
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    found = record(compiling, *TINY, "--rounds", "3", "--seconds", "0.5")
    assert found["networks"]["tiny"]["first_step_seconds"]["compiled"] > 0
    assert "has paid after" in page_of("compiling", found)
    assert compiling.break_even(90.0, 0.25) == 360
    assert compiling.break_even(90.0, -0.1) is None
    assert compiling.break_even(-1.0, 0.1) == 0


@pytest.mark.slow
def test_start_up(record):
    import startup

    found = record(startup, *FAST, "--data", "digits", "--rounds", "1")
    seconds = {name: value["median"] for name, value in found["seconds"].items()}
    assert seconds["import markovae"] < seconds["import torch"] < seconds["first step, digits, warm"]
    assert "| markovae --help |" in page_of("startup", found)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_profile_adds_up(record):
    import step_profile

    found = record(step_profile, "--sizes", "64", "--networks", "tiny", "default", "--batch", "2", "--steps", "2")
    for network in found["networks"].values():
        parts = {k: v for k, v in network["parts_ms"].items() if k not in ("between operations", "checks and clipping")}
        assert min(parts.values()) >= 0
        assert sum(network["parts_ms"].values()) == pytest.approx(network["step_ms"])
        assert network["parts_ms"]["convolutions"] > 0
        assert network["parts_ms"]["optimizer"] > 0
    assert "| a step |" in page_of("profile", found)
    kinds = step_profile.sorted_out(
        {"native_group_norm_backward": 1, "addcmul_": 2, "add_": 4, "_to_copy": 8, "exp": 16}
    )
    assert (kinds["norms"], kinds["additions"], kinds["copies and casts"], kinds["other operations"]) == (3, 4, 8, 16)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_script_for_a_gpu_runs_and_agrees_on_a_cpu(record, monkeypatch):
    import gpu

    here = ["--device", "cpu", "--network", "tiny", "--batch", "2", "--seconds", "0.01", "--calls", "2", "--plain"]
    found = record(gpu, *FAST, *here)
    assert max(found["agreement"]["float32"].values()) < 1e-4
    assert 1e-4 < max(found["agreement"]["bfloat16"].values()) < 5e-2
    assert len(found["images_a_second"]) == 2 + 3 + 2
    assert "| training, bfloat16 |" in page_of("gpu_cuda", found)
    monkeypatch.setitem(gpu.TOLERANCES, "bfloat16", 1e-9)
    assert gpu.main([*FAST, *here]) == 1
    if not torch.cuda.is_available():
        with pytest.raises(SystemExit):
            gpu.main([])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_time_to_the_bound_of_recipes(record, monkeypatch):
    import time_to_bound
    from performance_networks import NETWORKS

    monkeypatch.setitem(NETWORKS, "tiny", (8, {"widths": [16], "attention": [], "groups": 4, "blocks": 1}))
    monkeypatch.setattr(time_to_bound, "unlabelled", lambda data: three_channels(data, 40))
    monkeypatch.setattr(time_to_bound.mv, "load_data", loader(time_to_bound.mv.load_data))
    arguments = ["--minutes", "0.02", "--shares", "0.5", "1", "--images", "3", "--draws", "2", "--network", "tiny"]
    found = record(time_to_bound, *FAST, *arguments, "--data", "digits", "--set", "network.width=8")
    assert set(found["peers"]) == {"diffusers, defaults", "diffusers, tuned"}
    assert [len(peer["looks"]) for peer in found["peers"].values()] == [4, 4]
    assert all(run["bits_per_dim"]["mean"] > 0 for run in found["ours"])
    assert "diffusers, tuned" in page_of("time_to_bound", found)
    peer = {"bits_per_dim": {"mean": 2.0}}
    runs = [{"seconds": s, "bits_per_dim": {"mean": b}} for s, b in ((60, 2.5), (120, 1.9), (240, 1.5))]
    assert time_to_bound.reached(runs, peer, 1200) == 0.1
    assert time_to_bound.reached(runs[:1], peer, 1200) is None


def test_a_folder_without_the_third_peer_is_told(tmp_path):
    from performance_ddp import imported

    with pytest.raises(SystemExit, match="does not have denoising_diffusion_pytorch"):
        imported(tmp_path, "denoising_diffusion_pytorch")


def three_channels(data: Any, count: int) -> Any:
    """The digits as colour images of 256 grey values."""
    from markovae.data.images import ImageData

    return ImageData(data.images[:count].repeat(3, axis=1), bins=256)


def loader(load: Any) -> Any:
    """Digits whose parts are in colour."""
    from dataclasses import replace

    def made(source: str) -> Any:
        splits = load(source)
        return replace(splits, validation=three_channels(splits.validation, 10))

    return made
