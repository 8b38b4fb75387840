"""scripts/reference.py: the reference model is trained once, resumed when interrupted, shipped small."""

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from markovae.build import create
from markovae.checkpoint import load, open_checkpoint
from markovae.config import Config
from markovae.training import Training

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setenv("MARKOVAE_CACHE", str(tmp_path / "cache"))
    spec = importlib.util.spec_from_file_location("reference", ROOT / "scripts" / "reference.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def arguments(tiny_config: Config, tmp_path: Path) -> list[str]:
    np.save(tmp_path / "images.npy", np.random.default_rng(0).integers(0, 256, (40, 4, 4)).astype(np.uint8))
    config = tiny_config.with_settings([f"data.source={tmp_path / 'images.npy'}"])
    (tmp_path / "c.toml").write_text(config.to_toml())
    return ["--config", str(tmp_path / "c.toml"), "--to", str(tmp_path / "fixture")]


def test_the_committed_configuration_has_a_budget_in_steps_and_fits_the_fixture(script: ModuleType):
    config = Config.from_toml(ROOT / "configs" / "reference.toml")
    assert config.data.source == "faces"
    assert config.train.steps is not None
    count = sum(weight.numel() for weight in create(config, (3, 32, 32)).parameters())
    assert 2 * count + 100_000 < script.LIMIT


def test_an_interrupted_training_goes_on_and_its_average_is_shipped(
    script: ModuleType, arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    advance, taken = Training.advance, []

    def stopped(self: Training):
        if self.step == 5 and -1 not in taken:
            raise KeyboardInterrupt
        taken.append(self.step)
        return advance(self)

    with monkeypatch.context() as patch:
        patch.setattr(Training, "advance", stopped)
        with pytest.raises(KeyboardInterrupt):
            script.main(arguments)
        taken.append(-1)
    assert not (tmp_path / "fixture").exists()
    assert script.main(arguments) == 0
    shipped, (run,) = open_checkpoint(tmp_path / "fixture"), (tmp_path / "cache").glob("reference-*")
    assert shipped.step == 12
    assert not shipped.resumable
    for half, exact in zip(load(tmp_path / "fixture").parameters(), load(run).parameters(), strict=True):
        np.testing.assert_allclose(half, exact, rtol=1e-3, atol=1e-6)
    assert script.main(arguments) == 0  # finished: exported again, in place


def test_bad_input_is_one_sentence_and_code_2(script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert script.main(["--config", str(tmp_path / "none.toml")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_fixture_that_grows_too_large_is_told(
    script: ModuleType, arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(script, "LIMIT", 1000)
    assert script.main(arguments) == 2
    assert "must stay below 1,000" in capsys.readouterr().err
