"""What `--objective NAME` stands for."""

from __future__ import annotations

PRESETS = ("bound", "simple")


def preset_settings(name: str, schedule: str) -> list[str]:
    """The settings of a preset, "section.name=value" each; later settings may replace them.

    bound: the recipe for likelihood. The bound itself is minimised, its levels drawn as often as their nats are large,
    and the reverse variance is the best that is one number a level.
    simple: the squared error of the noise, every level alike. Source: Ho et al. 2020, eq. 14.

    Args:
        name: one of `PRESETS`.   schedule: its kind; a learned one is itself the law of levels.
    """
    if name == "simple":
        return ["train.objective=weighted", "train.law=uniform", "train.weighting=noise"]
    law = "uniform" if schedule == "learned" else "importance"
    return ["train.objective=bound", f"train.law={law}", "train.weighting=own", "target.reverse=isotropic"]
