"""What a person may say about training: the section [train]."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from markovae.diffusion.target_config import TARGET_NAMES
from markovae.errors import UserError
from markovae.tables import MAX_COUNT, above, between, one_of, within

OPTIMIZERS = ("muon", "adamw")
WEIGHTINGS = ("own", *TARGET_NAMES, "nats")
OBJECTIVES = ("weighted", "bound")
LEVEL_SAMPLINGS = ("auto", "middle", "uniform", "normal", "table", "importance")
DRAWS = ("rao_blackwell", "raw", "literal")
PRECISIONS = ("auto", "float32", "bfloat16")
PARALLEL = ("ddp", "fsdp")
PRESETS = ("auto", "few", "short", "none")
DEFAULT_MINUTES = 5.0
MAX_BATCH = 1 << 24
MAX_LOOKS = 1_000_000  # evaluations, grids, checkpoints kept
MAX_DRAWS = 10_000  # of the noise of an image
MAX_SECONDS = 1e9  # 30 years; of a budget, in minutes
MAX_POINTS = 10_000


@dataclass(frozen=True)
class TrainConfig:
    """How the network is trained.

    Args:
        seed: seed of every random draw.
        batch: images per step.
        accumulate: micro-batches in which a batch is computed.
        steps: length of the run in steps; neither steps nor minutes: 5 minutes.
        minutes: length of the run in minutes.
        optimizer: muon (with AdamW for weights that are not hidden matrices) or adamw.
        lr: learning rate of Muon.
        momentum: momentum of Muon.
        adamw_lr: learning rate of AdamW, for the weights that Muon leaves, or for all with optimizer=adamw.
        beta1: of AdamW.
        beta2: of AdamW.
        weight_decay: of every matrix, times its learning rate.
        warmup_steps: steps over which the rates rise, at most a fifth of the run; ten times as many, however short the
            run, where it starts from the weights of another (--init).
        decay_start: share of the run after which the rates fall linearly to zero; 1 never.
        ema_horizon: steps that the average of the weights looks back.
        ema_warmup: the average never looks back further than about 1/ema_warmup of the run so far.
        clip: largest norm of the gradient.
        objective: weighted, the squared error of `weighting` under `level_sampling`; or bound, the bound itself: each
            level's nats and the decoder's; `level_sampling` then only changes the noise of the gradient.
        level_sampling: distribution of the levels: uniform, normal, middle (half of each), table; or, for the bound,
            importance: in proportion to the levels' nats. auto is middle, and for the bound uniform.
        level_center: mean of the log-SNR, of normal and middle.
        level_width: standard deviation of the log-SNR, of normal and middle.
        level_logsnr: rising log-SNRs of table.
        level_density: density of table at these log-SNRs, linear between them, 0 beyond.
        weighting: whose squared error is minimized: own (the target's), another target's, or nats; of
            objective=weighted alone.
        draw: what is regressed onto: rao_blackwell, the target's mean given (z_0, z_ℓ); raw, the sample of one step
            itself, for the targets step_noise and mean; literal, raw too, drawn as (z_0, ℓ, z_{ℓ−1}, ε).
        label_dropout: share of the labels, captions or columns that training replaces by the learned null.
        precision: auto (probed), float32 or bfloat16.
        checkpointing: whether activations inside the blocks of the network are computed again on the way back rather
            than kept: the same gradients in less memory and more time.
        compile: whether the network is compiled first (torch.compile): for GPUs, on CPUs measure it first.
        save_minutes: minutes between checkpoints.
        keep: how many of the last checkpoints stay.
        keep_best: whether the checkpoint of the best held-out bound is kept and is what the run is opened by.
        keep_every: steps between milestones, checkpoints that are saved whatever the time and stay for good; 0 none.
        rollback: how often (up to 3) a run that meets NaN or Inf goes back to its last checkpoint and
            leaves out the batches since then; 0 stops at once.
        evaluations: how often the held-out bound is taken.
        eval_images: images of each held-out bound.
        eval_draws: draws of levels per image of each held-out bound.
        fit_images: training images that a fitted reverse variance (isotropic, diagonal) is fitted to at the end;
            before each held-out bound it is fitted to `eval_images` of them.
        choose_guidance: whether a model of classes gets the guidance of the best held-out KID at the end of a run in
            minutes, of which it takes a tenth, at most a minute.
        grids: how many sample grids are made on the way.
        parallel: how several processes share the work: ddp, each holds all weights; fsdp, each holds its part of
            every weight, gradient, moment and average (torch's FSDP2).
        preset: few, settings for fewer than about 2,000 images; short, a smaller network where the default one would
            see fewer than 60,000 images in the time; none; or auto: few or short where they apply and the network's
            shape is left at its defaults.
        timeout: seconds after which one of several processes that does not answer counts as lost.
    Raises: UserError for a value out of its range.
    """

    seed: int = 0
    batch: int = 32
    accumulate: int = 1
    steps: int | None = None
    minutes: float | None = None
    optimizer: str = "muon"
    lr: float = 6e-3
    adamw_lr: float = 2e-3
    momentum: float = 0.95
    beta1: float = 0.9
    beta2: float = 0.99
    weight_decay: float = 0.0
    warmup_steps: int = 50
    decay_start: float = 0.5
    ema_horizon: float = 1000.0
    ema_warmup: float = 10.0
    clip: float = 1.0
    objective: str = "weighted"
    level_sampling: str = "auto"
    level_center: float = 0.0
    level_width: float = 4.0
    level_logsnr: tuple[float, ...] = ()
    level_density: tuple[float, ...] = ()
    weighting: str = "own"
    draw: str = "rao_blackwell"
    label_dropout: float = 0.1
    precision: str = "auto"
    checkpointing: bool = False
    compile: bool = False
    save_minutes: float = 5.0
    keep: int = 2
    keep_best: bool = False
    keep_every: int = 0
    rollback: int = 0
    evaluations: int = 5
    eval_images: int = 64
    eval_draws: int = 4
    fit_images: int = 512
    choose_guidance: bool = True
    grids: int = 2
    parallel: str = "ddp"
    preset: str = "auto"
    timeout: float = 600.0

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**63:
            raise UserError(f"train.seed={self.seed} must lie in 0…2^63-1")
        self._check_budget()
        self._check_optimizer()
        self._check_level_sampling()
        self._check_objective()
        one_of("train.weighting", self.weighting, WEIGHTINGS)
        one_of("train.draw", self.draw, DRAWS)
        one_of("train.precision", self.precision, PRECISIONS)
        between("train.label_dropout", self.label_dropout, 0, 1, "it is a share of the labels or captions")
        one_of("train.parallel", self.parallel, PARALLEL)
        one_of("train.preset", self.preset, PRESETS)
        if self.keep_best and not self.evaluations:
            raise UserError("train.keep_best=true needs a held-out bound to tell the best by: set train.evaluations")
        self._check_minutes("save_minutes", "it is the time between checkpoints")
        within("train.keep", self.keep, 1, MAX_LOOKS, "the last checkpoint must stay")
        within("train.keep_every", self.keep_every, 0, MAX_COUNT, "it counts steps; 0 means no milestones")
        between("train.rollback", self.rollback, 0, 3, "what happens more often is no accident")
        within("train.timeout", self.timeout, 1, MAX_SECONDS, "it is a time in seconds")
        for name in ("evaluations", "grids"):
            within(f"train.{name}", getattr(self, name), 0, MAX_LOOKS, "0 means none")
        within("train.fit_images", self.fit_images, 1, MAX_COUNT, "a fitted variance needs images")
        remedy = "set train.evaluations=0 to leave them out"
        within("train.eval_images", self.eval_images, 1, MAX_COUNT, remedy)
        within("train.eval_draws", self.eval_draws, 1, MAX_DRAWS, remedy)

    def _check_budget(self) -> None:
        within("train.batch", self.batch, 1, MAX_BATCH, "it counts the images of a step")
        between("train.accumulate", self.accumulate, 1, self.batch, "it counts the parts of a batch")
        if self.steps is not None and self.minutes is not None:
            raise UserError(f"train.steps={self.steps} and train.minutes={self.minutes:g} are both given: name one")
        if self.steps is not None:
            between("train.steps", self.steps, 1, MAX_COUNT, "it is the length of the run")
        if self.minutes is not None:
            self._check_minutes("minutes", "it is the length of the run")

    def _check_minutes(self, name: str, meaning: str) -> None:
        above(f"train.{name}", getattr(self, name), 0, meaning)
        within(f"train.{name}", getattr(self, name), 0, MAX_SECONDS, meaning)

    def _check_optimizer(self) -> None:
        one_of("train.optimizer", self.optimizer, OPTIMIZERS)
        for name in ("lr", "adamw_lr"):
            above(f"train.{name}", getattr(self, name), 0, "it is a learning rate")
            between(f"train.{name}", getattr(self, name), 0, 1e30, "it is a learning rate")
        for name in ("momentum", "beta1", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(f"train.{name}={getattr(self, name):g} must lie in [0, 1)")
        within("train.weight_decay", self.weight_decay, 0, 1e6, "it pulls weights to zero")
        within("train.warmup_steps", self.warmup_steps, 0, MAX_COUNT, "0 means none")
        between("train.decay_start", self.decay_start, 0, 1, "it is a share of the run")
        within("train.ema_horizon", self.ema_horizon, 1, MAX_COUNT, "1 averages nothing")
        within("train.ema_warmup", self.ema_warmup, 0, MAX_COUNT, "0 means none")
        above("train.clip", self.clip, 0, "it is the largest norm of the gradient")
        within("train.clip", self.clip, 0, 1e30, "it is the largest norm of the gradient")

    def _check_level_sampling(self) -> None:
        one_of("train.level_sampling", self.level_sampling, LEVEL_SAMPLINGS)
        within("train.level_width", self.level_width, 1e-3, 1e3, "it is a standard deviation of log-SNR")
        between("train.level_center", self.level_center, -100, 100, "it is a log-SNR")
        points = self.level_logsnr
        if (self.level_sampling == "table") != bool(points) or len(points) != len(self.level_density):
            raise UserError(
                f"train.level_sampling={self.level_sampling} with {len(points)} level_logsnr and "
                f"{len(self.level_density)} level_density: table takes as many of each, anything else none"
            )
        if any(a >= b for a, b in pairwise(points)) or min(self.level_density, default=0) < 0:
            raise UserError("train.level_logsnr must rise and train.level_density must not be negative")
        if max(map(abs, points), default=0) > 1000 or max(self.level_density, default=0) > 1e30:
            raise UserError("train.level_logsnr must lie in -1000…1000 and train.level_density in 0…1e30")
        if len(points) > MAX_POINTS:
            raise UserError(f"train.level_logsnr has {len(points):,} points: at most {MAX_POINTS:,}")

    def _check_objective(self) -> None:
        one_of("train.objective", self.objective, OBJECTIVES)
        if self.objective == "bound" and self.weighting != "own":
            raise UserError(
                f"train.objective=bound has weights of its own: leave train.weighting={self.weighting} out, or set "
                "train.objective=weighted"
            )
        if self.objective == "weighted" and self.level_sampling == "importance":
            raise UserError(
                "train.level_sampling=importance would change what train.objective=weighted minimizes: set "
                "train.objective=bound, which no distribution of levels changes"
            )

    @property
    def resolved_level_sampling(self) -> str:
        """The distribution of the levels by name: what `auto` stands for here."""
        if self.level_sampling != "auto":
            return self.level_sampling
        return "middle" if self.objective == "weighted" else "uniform"

    @property
    def seconds(self) -> float | None:
        """The budget in seconds, or None where it is in steps."""
        if self.steps is not None:
            return None
        return 60 * (DEFAULT_MINUTES if self.minutes is None else self.minutes)
