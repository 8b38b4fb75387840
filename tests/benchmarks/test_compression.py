"""The benchmarks of the codec, end to end on a few images."""

import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytest.importorskip("constriction", reason="the extra codec is not installed")


@pytest.fixture(autouse=True)
def scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)


def test_files_of_an_exact_denoiser_are_beside_their_bound(monkeypatch, capsys):
    import codec_exact

    monkeypatch.setattr(sys, "argv", ["codec_exact.py", "files", "--images", "6", "--levels", "3", "--group", "4"])
    codec_exact.main()
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert rows[0]["bound"] > 0
    assert rows[1]["group"] == 4
    assert rows[1]["header_bytes"] < 400


def test_the_path_that_is_coded_costs_what_the_file_has():
    """The Gaussians' own densities, beside the words of the stack."""
    import numpy as np

    import codec
    import codec_exact
    from markovae.compression.codec import CodecSettings, GroupEncoder, decompress

    model, images, fit = codec_exact.gaussian_model(), codec_exact.pictures(30), codec_exact.pictures(200, seed=2)
    data, times = codec.encoded(
        GroupEncoder(model, images, None, (), (fit, None), CodecSettings(levels=6, verify=False))
    )
    assert np.array_equal(decompress(model, data), images), "the stack is as it was before it was looked at"
    found = codec.parts(data, images, 256, np.zeros(30), times["path_bytes"])
    assert sum(found[name] for name in ("header", "groups", "side", "plain", "chained")) == len(data)
    assert found["chained"] == pytest.approx(times["path_bytes"], rel=0.01)
    assert times["network_cpu_seconds"] < times["cpu_seconds"]


@pytest.mark.slow
def test_faces_beside_other_formats_and_in_parts(monkeypatch, tmp_path: Path, capsys):
    import codec

    words = ["--images", "3", "--levels", "3", "--fit", "4", "--progressive", "1", "--out", str(tmp_path / "a.json")]
    monkeypatch.setattr(sys, "argv", ["codec.py", str(ROOT / "tests" / "fixtures" / "reference"), *words])
    codec.main()
    (row,) = json.loads((tmp_path / "a.json").read_text())
    raw = 3 * 3 * 32 * 32
    assert 0 < row["bytes_of"]["one_file_each"]["PNG"] < raw
    assert 0 < row["bytes"] < raw, "three levels are too few to beat PNG"
    assert [view["level"] for view in row["progressive"]] == [3, 2, 1, 0]
    assert row["progressive"][-1]["rmse"] == 0
