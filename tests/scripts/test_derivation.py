"""The trainings of docs/derivation.md: each part on short trainings, and the page against its committed numbers."""

import json
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch
from scripts.derivation import blind, digits, draws, targets
from scripts.derivation.__main__ import PARTS, with_all_tables
from scripts.derivation.page import read_numbers, rounded, table, with_tables
from scripts.derivation.store import Unit, results

from markovae.networks.network import Network

DOCS = Path(__file__).parents[2] / "docs"
NUMBERS = read_numbers(DOCS / "images" / "derivation")
SHORT = {
    "hierarchy": {"steps": 8, "batch": 16},
    "targets": {"steps": 2},
    "draws": {"steps": 2},
    "blind": {"steps": 2, "draws": 2},
}


@pytest.fixture
def part(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    """A part whose trainings are short, in a cache of its own."""
    monkeypatch.setenv("MARKOVAE_CACHE", str(tmp_path))
    name = request.param
    module = PARTS[name]
    train, held_out = digits.parts()
    monkeypatch.setattr(module, "parts", lambda: (train, held_out[:12]))
    short = {key: replace(unit, spec={**unit.spec, **SHORT[name]}) for key, unit in module.UNITS.items()}
    monkeypatch.setattr(module, "UNITS", short)
    if name == "blind":
        monkeypatch.setattr(blind, "PLACES", 3)
        monkeypatch.setattr(blind, "EXAMPLES", 4)
    if name == "draws":
        monkeypatch.setattr(draws, "LENGTHS", {"raw": (2,), "rao_blackwell": (2,)})
        one = {key: unit for key, unit in short.items() if key[2:] in ((250, 1e-3), (25, 1e-3))}
        monkeypatch.setattr(draws, "RATES", {"raw": (1e-3,), "rao_blackwell": (1e-3,)})
        monkeypatch.setattr(draws, "UNITS", {(a, b, 2, d): unit for (a, b, _, d), unit in one.items()})
    return module


@pytest.mark.slow
@pytest.mark.parametrize("part", PARTS, indirect=True)
def test_each_part_trains_and_gives_its_tables_and_figures(part: ModuleType) -> None:
    units = list(part.UNITS.values())
    assert len({unit.key for unit in units}) == len(units)
    for unit in units:
        unit.result()
    numbers = part.gains()
    page = "\n".join(f"<!-- trained: {name} -->\n\n<!-- end -->" for name in part.tables(numbers))
    filled = with_tables(page, part.tables(numbers))
    assert sum(line.startswith("| ---") for line in filled.splitlines()) == len(part.tables(numbers))
    for name, picture in part.figures(numbers):
        assert name.endswith(".svg")
        assert picture.startswith("<svg")
        assert "nan" not in picture
    json.dumps(rounded(numbers), allow_nan=False)


def test_a_result_is_computed_once_and_known_by_its_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MARKOVAE_CACHE", str(tmp_path))
    asked: list[int] = []

    def compute(spec: dict[str, int]) -> dict[str, int]:
        asked.append(spec["a"])
        return {"twice": 2 * spec["a"]}

    units = [Unit("part", {"a": a}, compute) for a in (1, 2, 1)]
    assert [unit.spec["a"] for unit in results(units[:2], 1)] == [1, 2]
    assert asked == [1, 2]
    assert units[0].key == units[2].key != units[1].key
    assert units[2].result()["twice"] == 2
    assert asked == [1, 2]


def test_the_least_steps_are_those_that_reach_the_limit() -> None:
    errors = {"25": {"error": 0.4}, "50": {"error": 0.2}, "100": {"error": 0.1}}
    assert draws.steps_needed(errors, 0.2) == 50
    assert draws.steps_needed(errors, 0.05) is None


def test_places_of_a_table_must_be_on_the_page() -> None:
    made = table(["a"], [["1"]])
    assert with_tables("<!-- trained: x -->\nold\n<!-- end -->", {"x": made}).splitlines()[1:4] == made.splitlines()
    with pytest.raises(ValueError, match="0 places marked <!-- trained: y -->"):
        with_tables("nothing", {"y": made})


def test_networks_that_know_less_or_are_scaled() -> None:
    """A level-blind network says the same at every level; ρ scales the inner output on the training grid."""
    made = digits.config(["schedule.kind=constant", "schedule.num_levels=10", "schedule.delta=0.1"])
    model = digits.model(made)
    torch.nn.init.normal_(model.network.head.weight)
    z, levels = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0)), model.schedule.logsnr
    blind_net: Network = digits.LevelBlind(model.network)
    assert torch.equal(blind_net(z, levels[[1, 1]]), blind_net(z, levels[[9, 3]]))
    assert not torch.equal(model.network(z, levels[[1, 1]]), model.network(z, levels[[9, 3]]))
    scaled = digits.ScaledByRho(model.network, model.schedule)
    rho = torch.tensor([scaled.rho[2], scaled.rho[8]]).float().reshape(-1, 1, 1, 1)
    torch.testing.assert_close(scaled(z, levels[[3, 9]]), rho * model.network(z, levels[[3, 9]]))


def test_the_page_is_what_its_numbers_make() -> None:
    text = (DOCS / "derivation.md").read_text(encoding="utf-8")
    assert set(NUMBERS) == set(PARTS), "make derivation"
    assert with_all_tables(text, NUMBERS) == text


def test_what_the_page_claims_of_its_trainings_is_in_its_numbers() -> None:
    """Gains of learned encoders, equal bounds of the six targets, raw against its mean, what blindness costs."""
    for data in ("modes", "digits"):
        assert NUMBERS["hierarchy"][f"{data}_gain"]["ci95"][0] > 0
    assert NUMBERS["hierarchy"]["modes_learned"]["mean"] > NUMBERS["hierarchy"]["modes_entropy_nats"]
    assert NUMBERS["targets"]["nats"]["spread"] <= targets.LIMIT
    assert NUMBERS["draws"]["own"]["ratio"] >= 10
    assert NUMBERS["draws"]["best"]["ratio"] >= 20
    for found in NUMBERS["blind"].values():
        assert 0 < found["step_noise"]["ci95"][1] < found["mean"]["ci95"][0]
    spread = {
        name: {key: one["range"]["raw"] for key, one in found.items()} for name, found in NUMBERS["blind"].items()
    }
    assert all(one["step_noise"] < 10 for one in spread.values())
    assert spread["constant-1000"]["mean"] < 2
    assert spread["logsnr-100"]["mean"] > 1000
