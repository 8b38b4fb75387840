"""Configurations: frozen dataclasses to TOML and back, strictly."""

from __future__ import annotations

import hashlib
import json
import textwrap
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

from markovae.data.data_config import DataConfig
from markovae.diffusion.cascade_config import CascadeConfig
from markovae.diffusion.schedule_config import ScheduleConfig
from markovae.diffusion.target_config import TargetConfig
from markovae.errors import UserError
from markovae.locations import FromFile, without_secrets
from markovae.networks.network_config import ConditionConfig, NetworkConfig
from markovae.strict_json import shortened
from markovae.tables import explained, from_table, parse_setting, spelled, to_table
from markovae.training.distillation_config import DistillConfig
from markovae.training.train_config import TrainConfig

__all__ = [
    "CascadeConfig",
    "ConditionConfig",
    "Config",
    "NetworkConfig",
    "ScheduleConfig",
    "TargetConfig",
    "TrainConfig",
]

MAX_BYTES = 1 << 20
NAMED, WIDE = 42, 118  # columns of a setting with its default, and of a line of `train --settings`


@dataclass(frozen=True)
class Config:
    """Everything a run is made from, one section each.

        config = mv.Config().with_settings(["train.minutes=10", "data.size=64"])
        print(config.train.minutes)

    Args:
        data, schedule, network, target, train, condition, cascade: the sections; each has defaults for all.
        distill: the section of a student, which is trained from another run (`markovae distill`).
    """

    data: DataConfig = field(default_factory=DataConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    network: NetworkConfig = field(default_factory=NetworkConfig)
    target: TargetConfig = field(default_factory=TargetConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    condition: ConditionConfig = field(default_factory=ConditionConfig)
    cascade: CascadeConfig = field(default_factory=CascadeConfig)
    distill: DistillConfig | None = None

    @classmethod
    def from_toml(cls, path: str | Path) -> Config:
        """Read a TOML file.

        Raises:
            UserError: for a file that is missing or no TOML, an unknown key, a wrong type or range.
        """
        path = Path(path)
        try:
            if path.stat().st_size > MAX_BYTES:
                raise UserError(f"{path} is larger than {MAX_BYTES:,} bytes, so it is not a configuration")
            content = path.read_bytes()
        except OSError as error:
            raise UserError(f"{path} cannot be read ({error.strerror}): name an existing TOML file") from None
        return cls.parse(content, str(path))

    @classmethod
    def parse(cls, content: bytes, name: str = "configuration") -> Config:
        """Parse TOML text; `name` is said in messages. Its data.source is a `FromFile`: no URL there is opened."""
        try:
            table = tomllib.loads(content.decode("utf-8"))
        except (ValueError, RecursionError) as error:  # of its syntax, its encoding, whole numbers of 4,300 digits
            raise UserError(f"{name} is no TOML: {shortened(str(error))}") from None
        try:
            config = from_table(cls, table)
        except UserError as error:
            raise UserError(f"{name}: {error}") from None
        return replace(config, data=replace(config.data, source=FromFile(config.data.source)))

    def to_toml(self) -> str:
        """The configuration as TOML text, every setting that has a value included; URLs without their secrets."""
        import tomli_w

        return spelled(tomli_w.dumps(to_table(self.shareable())))

    def with_settings(self, settings: Sequence[str]) -> Config:
        """A copy with settings "section.name=value" applied in order, all before any is checked against another.

        A budget in steps replaces one in minutes and the other way round.
        """
        table = to_table(self)
        for text in settings:
            (*sections, name), value = parse_setting(text, type(self))
            if sections == ["train"] and name in ("steps", "minutes") and value is not None:
                table["train"].pop("minutes" if name == "steps" else "steps", None)
            place = table
            for section in sections:
                place = place.setdefault(section, {})
            if value is None:
                place.pop(name, None)
            else:
                place[name] = value
        return from_table(type(self), table)

    def hash(self) -> str:
        """16 hex digits that name this configuration: equal settings, equal hash, on any machine."""
        # A section without a value is not there: configurations of before the section keep their name.
        table = {name: section for name, section in to_table(self.shareable()).items() if section != {}}
        text = json.dumps(table, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def shareable(self) -> Config:
        """A copy whose URLs are without their secrets."""
        return replace(self, data=replace(self.data, source=without_secrets(self.data.source)))


SECTIONS = tuple(field.name for field in fields(Config))
PRESETS = ("bound", "simple")


def settings_help() -> str:
    """Every setting with its default and what it is, for `markovae train --settings`; long texts go on, indented."""
    lines = []
    for name, default, text in explained(Config):
        value = "left out" if default is None else str(list(default) if isinstance(default, tuple) else default)
        head = f"{name}={value.lower() if isinstance(default, bool) else value}"
        told = textwrap.wrap(text, WIDE - NAMED, break_on_hyphens=False)
        lines += [f"{head:<{NAMED - 2}}  {told[0]}", *(" " * NAMED + line for line in told[1:])]
    return "\n".join(lines)


def preset_settings(name: str, schedule: str) -> list[str]:
    """The settings of a preset, "section.name=value" each; later settings may replace them.

    bound: the recipe for likelihood. The bound itself is minimized, its levels drawn as often as their nats are large,
    and the reverse variance is the best that is one number a level.
    simple: the squared error of the noise, every level alike. Source: Ho et al. 2020, eq. 14.

    Args:
        name: one of `PRESETS`.
        schedule: its kind; a learned one is itself the distribution of levels.
    """
    if name == "simple":
        return ["train.objective=weighted", "train.level_sampling=uniform", "train.weighting=noise"]
    distribution = "uniform" if schedule == "learned" else "importance"
    return [
        "train.objective=bound",
        f"train.level_sampling={distribution}",
        "train.weighting=own",
        "target.reverse=isotropic",
    ]
