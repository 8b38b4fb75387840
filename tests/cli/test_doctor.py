"""`markovae doctor`: the record, and exit code 1 where device and CPU disagree."""

from markovae import __version__
from markovae.cli.entry import main
from markovae.report import machine


def test_json_and_agreement(json_of):
    record = json_of("doctor", "doctor", "--device", "cpu", "--batch", "2")
    assert record["versions"]["markovae"] == __version__
    assert record["pass"]
    assert len(record["agreement"]) == 6
    assert all(0 <= row["difference"] <= row["tolerance"] for row in record["agreement"])


def test_a_device_that_disagrees_gives_code_1(monkeypatch, capsys):
    monkeypatch.setattr(
        "markovae.report.machine.TOLERANCES",
        dict.fromkeys(machine.TOLERANCES, -1.0),
    )
    assert main(["doctor", "--device", "cpu", "--batch", "1"]) == 1
    out = capsys.readouterr().out
    assert "DISAGREES" in out
    assert "torch" in out


def test_bfloat16_is_compared_more_loosely(json_of):
    record = json_of("doctor", "doctor", "--device", "cpu", "--batch", "1", "--precision", "bfloat16")
    assert max(row["difference"] for row in record["agreement"]) > 1e-4, "eight bits are not twenty-four"


def test_a_device_that_is_not_there_is_refused(refused):
    assert "which has cpu" in refused("doctor", "--device", "cuda:77")
