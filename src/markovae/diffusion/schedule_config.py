"""The grid of levels in a configuration: the section [schedule]."""

from __future__ import annotations

from dataclasses import dataclass

from markovae.errors import UserError
from markovae.tables import between, one_of

SCHEDULES = ("logsnr_linear", "constant", "linear", "scaled_linear", "cosine", "betas", "learned", "table")
BETA_SCHEDULES = ("linear", "scaled_linear", "cosine", "betas")
DEFAULT_LEVELS = 1000
MAX_BETAS = 10_000


@dataclass(frozen=True)
class ScheduleConfig:
    """The grid of levels.

    Args:
        kind: logsnr_linear, constant (the lecture's), linear (Ho et al.), scaled_linear (Rombach et al.: √β linear),
            cosine (Nichol and Dhariwal), betas (given one by one), table (log-SNRs one by one), or learned (VDM: ends
            by the bound's gradient, shape by its variance; it needs train.objective=bound).
        num_levels: L; left out: 1000, or what the endpoint rule gives for constant (sigma, delta).
        start: log-SNR of level 1, of logsnr_linear, and of learned to begin with; left out: where the noise left is a
            sixth of a grey value of the data (13.3 for 256 values).
        end: log-SNR of level L, of logsnr_linear, and of learned to begin with.
        sigma: standard deviation of one step's noise, of constant alone: two of (sigma, delta, num_levels).
        delta: limit on the signal left at level L, of constant alone: two of (sigma, delta, num_levels).
        beta_start: first β of linear (left out: Ho et al.'s, scaled by 1000/L) and scaled_linear.
        beta_end: last β of linear (left out: Ho et al.'s, scaled by 1000/L) and scaled_linear.
        betas: β_1…β_L of betas.
        logsnr: λ_1…λ_L of table, falling.
        zero_terminal: whether the signal scales of linear, scaled_linear, cosine or betas are shifted and stretched so
            that nothing is left at level L (Lin et al. 2024); not for a target that is the noise.
    Raises: UserError for a value out of its range or one that the kind does not use.
    """

    kind: str = "logsnr_linear"
    num_levels: int | None = None
    start: float | None = None
    end: float = -10.0
    sigma: float | None = None
    delta: float | None = None
    beta_start: float | None = None
    beta_end: float | None = None
    betas: tuple[float, ...] = ()
    zero_terminal: bool = False
    logsnr: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        one_of("schedule.kind", self.kind, SCHEDULES)
        if self.num_levels is not None:
            between("schedule.num_levels", self.num_levels, 2, 1_000_000, "a bound needs a level between data and top")
        for name, limit in (("start", self.start), ("end", self.end)):
            if limit is not None:
                between(f"schedule.{name}", limit, -100, 100, "it is a log-SNR")
        if self.start is not None and not self.start > self.end:
            raise UserError(f"schedule.start={self.start:g} must exceed schedule.end={self.end:g}: log-SNR falls")
        if self.kind not in ("logsnr_linear", "learned") and (self.start, self.end) != (None, -10.0):
            raise UserError(
                f"schedule.start and schedule.end belong to kind=logsnr_linear or learned, not to kind={self.kind}"
            )
        self._check_constant()
        self._check_betas()
        self._check_table()

    def _check_betas(self) -> None:
        ends = (self.beta_start, self.beta_end)
        if ends != (None, None) and (self.kind not in ("linear", "scaled_linear") or None in ends):
            raise UserError(
                "schedule.beta_start and schedule.beta_end come together and belong to kind=linear or scaled_linear"
            )
        if self.kind == "scaled_linear" and None in ends:
            raise UserError(
                "schedule.kind=scaled_linear needs schedule.beta_start and schedule.beta_end (Stable Diffusion has "
                "0.00085 and 0.012)"
            )
        for value in ends:
            if value is not None and not 0 < value < 1:
                raise UserError(f"schedule.beta_start and beta_end must lie between 0 and 1: {value:g} does not")
        if (self.kind == "betas") != bool(self.betas):
            raise UserError(f"schedule.betas belong to kind=betas, which needs them; the kind is {self.kind}")
        if self.betas and (self.num_levels not in (None, len(self.betas)) or len(self.betas) < 2):
            raise UserError(f"schedule.betas are {len(self.betas)}: at least 2, and leave schedule.num_levels out")
        if len(self.betas) > MAX_BETAS:
            raise UserError(f"schedule.betas are {len(self.betas):,}: at most {MAX_BETAS:,}")
        if self.zero_terminal and self.kind not in BETA_SCHEDULES:
            raise UserError(f"schedule.zero_terminal belongs to {', '.join(BETA_SCHEDULES)}, not to kind={self.kind}")

    def _check_table(self) -> None:
        if (self.kind == "table") != bool(self.logsnr):
            raise UserError(f"schedule.logsnr belongs to kind=table, which needs it; the kind is {self.kind}")
        count = len(self.logsnr or ())
        if self.logsnr and (self.num_levels not in (None, count) or not 2 <= count <= MAX_BETAS):
            raise UserError(f"schedule.logsnr has {count:,} levels: 2…{MAX_BETAS:,}, and leave num_levels out")
        for value in self.logsnr or ():
            between("schedule.logsnr", value, -100, 100, "it is a log-SNR")

    def _check_constant(self) -> None:
        given = {name: value for name, value in (("sigma", self.sigma), ("delta", self.delta)) if value is not None}
        for name, value in given.items():
            if self.kind != "constant":
                raise UserError(f"schedule.{name}={value:g} belongs to kind=constant, not to kind={self.kind}")
            if not 0 < value < 1:
                raise UserError(f"schedule.{name}={value:g} must lie between 0 and 1, both excluded")
        if self.kind == "constant" and not given:
            raise UserError("schedule.kind=constant needs schedule.sigma or schedule.delta, for instance delta=0.01")
        if len(given) == 2 and self.num_levels is not None:
            raise UserError("schedule.sigma, delta and num_levels are all given: name two, they fix the third")
