"""A network of the user's own through a run: trained, resumed, sampled, measured, reported, where trusted."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import markovae as mv
from markovae.build import UntrustedNetworkError
from markovae.cli.entry import main
from markovae.config import Config, NetworkConfig
from markovae.report.report_writing import write_report

NAME = f"{__name__}:Net"


class Net(nn.Module):
    """One convolution, which knows nothing of the log-SNR."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.config = {"width": width}
        self.first, self.last = nn.Conv2d(1, width, 3, padding=1), nn.Conv2d(width, 1, 3, padding=1)

    def forward(self, z, logsnr, condition=None):
        return self.last(torch.tanh(self.first(z)))


@pytest.fixture
def short(run_config: Config) -> Config:
    few = run_config.with_settings(["train.steps=3", "train.evaluations=0", "train.grids=0"])
    return replace(few, network=NetworkConfig())


def test_a_network_given_as_a_module(short: Config, tmp_path: Path):
    out, network = tmp_path / "run", Net(5)
    before = network.first.weight.detach().clone()
    run = mv.train(None, out, short, network=network, progress=False)
    assert isinstance(run.model.network, Net)
    assert run.model.network.config == {"width": 5}
    assert not torch.equal(network.first.weight, before), "the caller's module is the one that trains"
    with pytest.raises(UntrustedNetworkError, match="test_own_network:Net"):
        mv.load(out)
    with pytest.raises(UntrustedNetworkError):
        mv.resume(out, steps=5, progress=False)
    assert mv.resume(out, steps=5, trust=[NAME], progress=False).checkpoint.step == 5
    model = mv.load(out, trust=[NAME])
    assert mv.sample(model, 2, steps=2).shape == (2, 1, 4, 4)
    assert mv.measure(model, mv.load_data(short.data).test.images, draws=1).bits_per_dim.value > 0


def test_a_network_named_by_the_command(short: Config, tmp_path: Path, monkeypatch, capsys):
    """The module lies in the working folder, as a script of the user's does."""
    (tmp_path / "mine.py").write_text(Path(__file__).read_text().split("@pytest")[0])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "c.toml").write_text(short.to_toml())
    own = ["--set", "network.kind=own", "--set", "network.own.name=mine:Net"]
    words = ["train", "--config", "c.toml", "--out", "run", *own]
    assert main([*words, "--no-report"]) == 2
    assert "--trust mine:Net" in capsys.readouterr().err
    assert main([*words, "--trust", "mine:Net"]) == 0
    assert json.loads((tmp_path / "run" / "report.json").read_text())["run"]["step"] == 3
    capsys.readouterr()
    assert main(["sample", "run", "--n", "2", "--steps", "2", "--trust", "mine:Net"]) == 0
    assert main(["measure", "run", "--draws", "1", "--trust", "mine:Net"]) == 0
    assert main(["sample", "run", "--n", "2"]) == 2
    export = ["export", "run", "--to", "torch", "exported"]
    assert main(export) == 2
    assert main([*export, "--trust", "mine:Net"]) == 0
    np.save("two.npy", mv.load_data(short.data).test.images[:2])
    packed = ["compress", "two.npy", "--model", "run", "--out", "x.mvz", "--levels", "4"]
    assert main(packed) == 2
    assert "--trust mine:Net" in capsys.readouterr().err
    assert main([*packed, "--trust", "mine:Net"]) == 0
    back = ["decompress", "x.mvz", "--model", "run", "--out", "restored"]
    assert main(back) == 2
    assert main([*back, "--trust", "mine:Net"]) == 0
    assert np.array_equal(np.load("restored/images.npy"), np.load("two.npy"))
    assert write_report("run", trust=["mine:Net"])["run"]["step"] == 3
