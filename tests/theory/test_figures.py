"""The convergence plots: well-formed pictures of the measured numbers."""

import re
from functools import cache
from xml.etree import ElementTree

from markovae.report.plots import LEFT, RIGHT, WIDTH
from markovae.theory import figures


def curves(svg: str) -> list[list[tuple[float, float]]]:
    """The points of each measured line, in the picture."""
    found = re.findall('<polyline class="line" points="([^"]*)"', svg)
    return [[tuple(map(float, pair.split(","))) for pair in one.split()] for one in found]


def rises(svg: str) -> list[float]:
    """How far each line falls in the picture from its first to its last point."""
    return [points[-1][1] - points[0][1] for points in curves(svg)]


@cache
def pictures() -> dict[str, str]:
    made = list(figures.figures())
    assert len({name for name, _ in made}) == len(made) == 6
    return dict(made)


def test_every_plot_is_a_well_formed_file_of_its_own() -> None:
    for picture in pictures().values():
        root = ElementTree.fromstring(picture)
        assert root.tag.endswith("svg")
        assert root.get("aria-label")
        assert not re.search(r"\b(nan|inf)\b", picture)
        assert all(LEFT <= x <= WIDTH - RIGHT for points in curves(picture) for x, _ in points)


def test_the_full_covariance_falls_twice_as_fast_in_the_picture() -> None:
    posterior, isotropic, full = rises(pictures()["gap.svg"])
    assert abs(full / isotropic - 2) < 0.06
    assert posterior > isotropic > 0


def test_orders_two_four_and_six_in_the_picture() -> None:
    plain, mean, full = rises(pictures()["step.svg"])
    assert abs(mean / plain - 2) < 0.05
    assert abs(full / plain - 3) < 0.1


def test_the_sampled_noise_loss_alone_is_level_under_any_schedule() -> None:
    sampled, mean, previous, _ = rises(pictures()["gradients-linear.svg"])
    assert abs(sampled) < 0.02 * mean
    assert previous > 10 * abs(sampled)
