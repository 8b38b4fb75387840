"""Every number of the configuration at its extremes: one sentence, or a step is trained and its checkpoint loads."""

import itertools
import random
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from markovae.build import create_outline
from markovae.checkpoints.reading import load
from markovae.config import Config
from markovae.errors import StoppedRun, UserError
from markovae.run.start import train_run
from markovae.run.surroundings import Surroundings
from markovae.tables import _section, names_of

WHOLE = (
    "0",
    "-1",
    "1",
    "2",
    "3",
    "7",
    "8",
    "65",
    "1000",
    str(2**31),
    str(2**53),
    str(2**63 - 1),
    str(2**63),
    "9" * 4299,
)
REAL = (
    *("0.0", "-0.0", "-1.0", "1.0", "0.5", "2.0", "12.3", "-9.9", "1e3", "1e9", "1e30", "1e300", "1.7e308", "-1.7e308"),
    *("1e-3", "1e-30", "1e-300", "5e-324", "-5e-324", "0.9999999999999999", "nan", "inf", "-inf", "1" + "0" * 400),
)
WRONG = ("true", "'x'", "''", "[]", "[[1]]", "{a = 1}", "1979-05-27", "none", "9" * 4301, "1e9999")
MOST, MOST_WEIGHTS = 64, 200_000  # sides and steps, and weights, of what is trained here; more is known by its outline
TINY = {
    "unet": ("width=8", "multipliers=[1]", "blocks=1", "attention=[]", "embedding=8", "head_dim=8"),
    "dit": ("dit.width=8", "dit.depth=1", "dit.head_dim=4", "dit.embedding=8", "dit.expansion=1"),
    "ddpm": ("ddpm.widths=[8]", "ddpm.blocks=1", "ddpm.attention=[]", "ddpm.groups=4", "ddpm.embedding=8"),
}
SMALL = (
    *("schedule.num_levels=20", "train.batch=4", "train.steps=1", "train.precision=float32", "train.eval_images=2"),
    *("train.eval_draws=1", "train.evaluations=1", "train.grids=1", "train.fit_images=2", "train.warmup_steps=1"),
)
AROUND = {  # what else must be said for a setting to count
    "schedule.sigma": ("schedule.kind=constant", "schedule.num_levels=none"),
    "schedule.delta": ("schedule.kind=constant",),
    "schedule.beta_start": ("schedule.kind=linear", "schedule.beta_end=0.02"),
    "schedule.beta_end": ("schedule.kind=scaled_linear", "schedule.beta_start=0.0001"),
    "schedule.betas": ("schedule.kind=betas", "schedule.num_levels=none"),
    "schedule.logsnr": ("schedule.kind=table", "schedule.num_levels=none"),
    "train.level_logsnr": ("train.level_sampling=table", "train.level_density=[1.0, 1.0]"),
    "train.level_density": ("train.level_sampling=table", "train.level_logsnr=[-1.0, 1.0]"),
    "train.level_center": ("train.level_sampling=normal",),
    "train.level_width": ("train.level_sampling=normal",),
    "train.adamw_lr": ("train.optimizer=adamw",),
    "train.fit_images": ("target.reverse=isotropic",),
    "train.minutes": ("train.steps=none",),
    "cascade.scales": ("cascade.stages=2",),
    "cascade.details_width": ("cascade.stages=2",),
}
ELSEWHERE = ("network.own.", "distill.")  # of networks that must be trusted, and of students


def numbers() -> Iterator[tuple[str, tuple[str, ...]]]:
    """(section.name, its extremes) of every setting that is a number, may be one, or is a list of them."""
    for name in names_of(Config):
        hint: Any = Config
        for part in name.split("."):
            hint = typing.get_type_hints(_section(hint) or hint)[part]
        kinds = {inner for outer in (hint, *typing.get_args(hint)) for inner in (outer, *typing.get_args(outer))}
        if kinds & {int, float}:
            values = WHOLE if int in kinds else REAL
            if any("tuple" in str(outer) for outer in kinds):
                inside = "0.5" if float in kinds else "1"
                values = tuple(form.format(v, inside) for form in ("[{0}]", "[{1}, {0}]", "[{0}, {1}]") for v in values)
            yield name, (*values, *WRONG)


NUMBERS = dict(numbers())
CASES = [(name, value) for name, values in NUMBERS.items() for value in values]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirty grey images of 8x8 pixels."""
    path = tmp_path_factory.mktemp("images") / "images.npz"
    np.savez(path, images=np.random.default_rng(0).integers(0, 256, (30, 8, 8), dtype=np.uint8))
    return path


def tried(name: str, value: str, images: Path, run: Path) -> str:
    """What came of a setting: "trained", "outlined", or the sentence."""
    kind = next((kind for kind in ("dit", "ddpm") if name.startswith(f"network.{kind}.")), "unet")
    lines = [f"network.kind={kind}", *(f"network.{line}" for line in TINY[kind]), *SMALL, *AROUND.get(name, ())]
    try:
        config = Config().with_settings([*lines, f"data.source={images}", f"{name}={value}"])
        height, width = config.data.shape or (8, 8)
        outline = create_outline(config, (1, height, width))
        if max(height, width, config.train.steps or 0) > MOST:
            return "outlined"
        if sum(weight.numel() for weight in outline.parameters()) > MOST_WEIGHTS:
            return "outlined"
        train_run(config, run, Surroundings(progress=False, clock=itertools.count(0.0, 1e12).__next__))
        load(run)
    except (UserError, StoppedRun) as error:
        said = str(error)
        assert said.strip()
        assert "\n" not in said
        assert len(said) < 1000
        return said
    return "trained"


def test_some_extremes_of_every_kind_are_a_sentence_or_train(images: Path, tmp_path: Path):
    """Thirty of them, which say what all do in `make soak`."""
    chosen = random.Random(0).sample(CASES, 30)
    found = [tried(name, value, images, tmp_path / str(k)) for k, (name, value) in enumerate(chosen)]
    assert found.count("trained") >= 5
    assert len(set(found)) > 12


@pytest.mark.slow
@pytest.mark.parametrize("name", NUMBERS)
def test_every_extreme_of_a_number_is_a_sentence_or_trains(name: str, images: Path, tmp_path: Path):
    found = {value: tried(name, value, images, tmp_path / str(k)) for k, value in enumerate(NUMBERS[name])}
    assert "trained" in found.values() or name.startswith(ELSEWHERE)
    assert set(found.values()) - {"trained", "outlined"}
