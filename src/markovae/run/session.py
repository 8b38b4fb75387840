"""One run from its first step, or the one it stopped at, to its last."""

from __future__ import annotations

import math
import statistics
from contextlib import nullcontext
from functools import cached_property
from pathlib import Path
from typing import Any, final

import torch

import markovae
from markovae.checkpoints.reading import BEST, best_checkpoint, newest_checkpoint
from markovae.checkpoints.writing import (
    checkpoint_name,
    checkpoints_in,
    is_milestone,
    prune,
    save_checkpoint,
    set_newer_aside,
    write_weights,
)
from markovae.config import Config
from markovae.data.images import captions_digest, columns_digest
from markovae.data.split import Splits
from markovae.diffusion.cascade import Model
from markovae.diffusion.fitted_variance import fitted_tensors
from markovae.errors import StoppedRun
from markovae.log import duration, log, warn
from markovae.run.evaluations import Evaluations
from markovae.run.forecast import forecast
from markovae.run.outlook import outlook
from markovae.run.progress import Progress
from markovae.run.run_folder import RunFolder
from markovae.run.signals import Coordinator, Interrupted, Interrupts
from markovae.run.surroundings import Surroundings
from markovae.system.distributed import LostRankError
from markovae.system.files import require_free_space
from markovae.system.jsonlines import read_rows
from markovae.system.memory import kept_memory
from markovae.training.train_step import NonFiniteError, TrainStep
from markovae.training.trainer import Tensors, Training

LOG_STEPS = 10
LARGEST_RESERVE = 0.3  # share of a budget in minutes that evaluations may cost


@final
class Session:
    """Drives `Training` to the end of its budget: figures, held-out bounds, grids, checkpoints, signals.

    Args:
        folder: of the run, held.
        config: of the run.
        splits: its data.
        record: of the split.
        training: at the step to continue from; its timer times everything here.
        around: what it was started with besides.
    """

    def __init__(
        self,
        folder: RunFolder,
        config: Config,
        splits: Splits,
        record: dict[str, Any],
        training: Training,
        around: Surroundings,
    ) -> None:
        self.folder, self.config, self.splits, self.record = folder, config, splits, record
        self.training, self.around = training, around
        self.evaluations = Evaluations(folder, config, splits, training, around)
        self._rows: list[TrainStep] = []
        self._saved_step, self._saved_at = -1, training.seconds
        self._save_seconds = 0.0
        self._best: float | None = None

    @property
    def last_checkpoint(self) -> Path:
        """The folder of the last save."""
        return self.folder.checkpoints / checkpoint_name(self._saved_step)

    def require_space(self) -> None:
        """Require space for two checkpoints; warn where it is less than what will be kept.

        Raises:
            UserError: before any step, with the figures.
        """
        # model, average and at most two moments, four bytes each
        bundle = 16 * sum(weight.numel() for weight in self.training.model.parameters())
        free = require_free_space(self.folder.path, 2 * bundle, self.folder.disk)
        kept = self.config.train.keep + 1 - len(checkpoints_in(self.folder.checkpoints))
        if free < kept * bundle:
            warn(
                f"{self.folder.path} has {free:,} bytes free, and train.keep={self.config.train.keep} "
                f"checkpoints beside one being written take {kept * bundle:,}: free some space, or lower train.keep"
            )

    def resumed(self, checkpoint: Path) -> None:
        """After `training` was restored from a checkpoint of this run."""
        self._saved_step = self.training.step
        if not self.training.ranks.first:
            return
        self.folder.forget_after(self.training.step)
        # A finished run's checkpoint holds the last fit; on the way one may have been cut short.
        self.evaluations.went_back(fitted=self.training.done)
        self.around.remark(f"resumed from {checkpoint}")

    def go(self) -> None:
        """Train to the end of the budget.

        Raises:
            StoppedRun: for a loss that is NaN or Inf, or a disk that refuses, naming the last good checkpoint.
            SystemExit: 130 or 143 after a signal, the present step saved.
        """
        alone = self.training.ranks.alone
        with (
            kept_memory() if alone else nullcontext(),
            self.training.threads.kept(),
            Interrupts(patient=not alone) as interrupts,
        ):
            together = Coordinator(self.training.ranks, interrupts)
            try:
                self._train(interrupts, together)
                if together.caught is not None:
                    self._leave(together)
                self._look_ahead()
            except NonFiniteError as error:
                raise StoppedRun(self._advice(error)) from None
            except LostRankError as error:
                raise StoppedRun(
                    f"{error}; the last checkpoint is {self.last_checkpoint}: start the processes again with --resume"
                ) from None

    def _train(self, interrupts: Interrupts, together: Coordinator) -> None:
        try:
            self._choose_precision()
            self.training.gather()
            together.first_does(lambda: self._prepare(interrupts))
            while not self._reached_end(interrupts, together):
                pass
        except Interrupted:
            pass

    def _look_ahead(self) -> None:
        """Say what training on would bring."""
        if not self.training.ranks.first:
            return
        found = outlook(read_rows(self.folder.metrics).rows)
        if found is not None:
            self.around.remark(found.sentence())

    # -- the parts ----------------------------------------------------------------------------------------------

    def _choose_precision(self) -> None:
        if not self.training.done:
            self.around.remark(f"training in {self.training.choose_precision().reason}")
            if self.training.threads.reason:
                self.around.remark(f"computing with {self.training.threads.reason}")

    def _prepare(self, interrupts: Interrupts) -> None:
        """Set aside what all saves and evaluations will cost, where the budget is a time."""
        training, config = self.training, self.config.train
        if training.done or training.budget.total is not None or config.seconds is None:
            return
        cost = self.evaluations.seconds_needed(interrupts)
        if config.keep_best and self.evaluations.heldout is not None:
            self._keep_best(self.evaluations.heldout)
        cost += self._save_seconds * (2 + config.seconds / (60 * config.save_minutes + self._save_seconds))
        training.budget.reserve = min(cost, LARGEST_RESERVE * config.seconds)

    def _reached_end(self, interrupts: Interrupts, together: Coordinator) -> bool:
        """Train on; True at the end or a signal, False after going back to the last checkpoint."""
        try:
            self._steps(interrupts, together)
            return True
        except NonFiniteError as error:
            if self.training.rollbacks >= self.config.train.rollback:
                raise
            self._roll_back(error)
            return False

    def _steps(self, interrupts: Interrupts, together: Coordinator) -> None:
        training, config = self.training, self.config.train
        with Progress(training.step, training.budget.total, shown=self.around.progress) as progress:
            # What a signal cut short after the last saved step is made up for first.
            training.gather()
            together.first_does(lambda: self._evaluate_where_due(interrupts, missing=True))
            if together.caught is not None:
                return
            known, paced = training.budget.total, training.budget.pace
            together.before_step(self._is_due)
            for step in training:
                due = together.after_step(self._is_due)
                if known != training.budget.total and training.budget.total is not None:
                    self._announce(training.budget.total, known)
                elif training.budget.seconds is None and training.budget.pace and not paced:
                    self._forecast(training.budget.total)
                known, paced = training.budget.total, training.budget.pace
                if training.ranks.first:
                    self._log(step)
                progress.show(step)
                if training.done or self._due(config.evaluations) or self._due(config.grids):
                    training.gather()
                    together.first_does(lambda: self._evaluate_where_due(interrupts))
                if training.done or due or is_milestone(step.index, config.keep_every):
                    self._save(together)
                if together.caught is not None:
                    return
                together.before_step(self._is_due)

    def _is_due(self) -> bool:
        """Whether the last save is long enough ago."""
        return self.training.seconds - self._saved_at >= 60 * self.config.train.save_minutes

    def _evaluate_where_due(self, interrupts: Interrupts, missing: bool = False) -> None:
        """The held-out bound and the grid where they fall on this step; `missing`: where they are not there yet."""
        training, config, evaluations = self.training, self.config.train, self.evaluations
        there = evaluations.heldout is not None and evaluations.heldout["step"] == training.step
        if training.done and not missing:
            evaluations.fit()  # which the last checkpoint holds, whatever cuts the evaluation short
        if (training.done or self._due(config.evaluations)) and not (missing and there):
            with interrupts.interruptible():
                evaluations.fit()
                row = evaluations.bound()
                if row is not None and config.keep_best:
                    self._keep_best(row)
        if (training.done or self._due(config.grids)) and not (missing and evaluations.picture.exists()):
            with interrupts.interruptible():
                evaluations.fit()
                evaluations.draw()
        if training.done and not missing and evaluations.chooses_guidance:
            with interrupts.interruptible():
                self._choose_guidance()

    def _roll_back(self, error: NonFiniteError) -> None:
        training, failed = self.training, self.training.step
        checkpoint = newest_checkpoint(self.folder.path, self.around.trust)
        training.ranks.require_same(checkpoint.step, f"{self.folder.path} shows each process another newest checkpoint")
        training.roll_back(checkpoint.all_tensors(), checkpoint.state)
        self._saved_step = training.step
        self._rows.clear()
        if not training.ranks.first:
            return
        set_newer_aside(self.folder.checkpoints, checkpoint.path, self.folder.disk)
        self.folder.forget_after(training.step)
        self.evaluations.went_back(fitted=False)
        row = {"kind": "rollback", "step": training.step, "from_step": failed, "skipped": training.skipped}
        self.folder.append({**row, "number": training.rollbacks, "reason": str(error)})
        log(
            f"{error}; back to {checkpoint.path}, the batches since then left out "
            f"(rollback {training.rollbacks} of {self.config.train.rollback})"
        )

    def _advice(self, error: NonFiniteError) -> str:
        limit = self.config.train.rollback
        more = "" if limit else ", or set train.rollback (up to 3) to go back and leave such batches out"
        return (
            f"{error}; the last good checkpoint is {self.last_checkpoint}: lower train.lr and train.adamw_lr, "
            f"look at those images{more}"
        )

    def _announce(self, total: int, before: int | None) -> None:
        left = duration(max((self.config.train.seconds or 0) - self.training.seconds, 0))
        if before is not None:
            self.around.remark(f"the pace has changed: {total:,} steps now fit the budget, about {left} from here")
            return
        self.around.remark(f"{total:,} steps fit the budget, about {left} from here")
        self._forecast(total)

    def _forecast(self, total: int | None) -> None:
        """What samples will show; not of weights that were trained before, whose samples show something already."""
        if total is None or self.training.pretrained or self.config.distill is not None:
            return
        octaves = (self.config.cascade.stages or 1) - 1
        pace = self.training.budget.pace
        self.around.remark(forecast(total, self.config.train.batch, self.splits.train, octaves, pace))

    def _due(self, times: int) -> bool:
        return self.training.budget.due(times, self.training.step)

    def _log(self, step: TrainStep) -> None:
        self._rows.append(step)
        if step.index % LOG_STEPS == 0 or self.training.done:
            self._write_row()

    def _write_row(self) -> None:
        """The means of the steps since the last row, as a row."""
        if not self._rows:
            return
        last = self._rows[-1]
        mean = {name: statistics.fmean(getattr(row, name) for row in self._rows) for name in ("loss", "nats")}
        self.folder.append(
            {
                "kind": "train",
                "step": last.index,
                "total": last.total,
                "images_seen": last.images_seen,
                **mean,
                "lr": last.lr,
                "grad_norm": statistics.fmean(row.grad_norm for row in self._rows),
                "images_per_second": statistics.harmonic_mean([row.images_per_second for row in self._rows]),
                "seconds": last.seconds,
            }
        )
        self._rows.clear()

    @cached_property
    def _text(self) -> dict[str, Any]:
        """What the captions went through, for a model of captions; a digest of the columns, for one of columns."""
        model, train, found = self.training.model, self.splits.train, dict[str, Any]()
        if model.text_conditioner is not None:
            known = {**model.text_conditioner.identity, "width": model.text_conditioner.width}
            found["text"] = {**known, "captions_sha256": captions_digest(train)}
        if model.columns is not None:
            found["columns_sha256"] = columns_digest(train, model.columns.names)
        return found

    def save(self, gathered: Tensors) -> None:
        """Write the checkpoint of the present step, then prune; a step that is saved is not saved again.

        Args:
            gathered: what `Training.gathered` gave, at this step, on every process.
        Raises:
            StoppedRun: when the disk refuses, or the folder is another one by now.
        """
        training, started = self.training, self.training.seconds
        if self._saved_step == training.step:
            return
        self.folder.require_held()
        tensors, position = training.capture(gathered)
        state = {"kind": "training", **position, **self._facts}
        if self.evaluations.guidance is not None:
            state["guidance"] = self.evaluations.guidance
        # After a resume the next row begins behind this checkpoint: what came before it must be written by then.
        self._write_row()
        self.folder.flush()
        folder, disk = self.folder.checkpoints, self.folder.disk
        save_checkpoint(folder, training.step, tensors, state, self.config, disk)
        self._saved_step, self._saved_at = training.step, training.seconds
        self._save_seconds = self._saved_at - started
        prune(folder, self.config.train.keep, self.config.train.keep_every, disk)

    @cached_property
    def _facts(self) -> dict[str, Any]:
        """What the state of every checkpoint of this run says of its data."""
        train = self.splits.train
        return {
            "shape": list(train.shape),
            "bins": train.bins,
            "class_names": list(train.class_names),
            "data": self.record,
            **self._text,
            "versions": {"markovae": markovae.__version__, "torch": str(torch.__version__)},
        }

    def _keep_best(self, row: dict[str, Any]) -> None:
        """Keep the averaged model, where the held-out bound is the lowest so far."""
        now = row["bits_per_dim"]["mean"]
        if self._best is None:
            best = best_checkpoint(self.folder.path, self.around.trust)
            self._best = math.inf if best is None else best.state.get("bits_per_dim", math.inf)
        if now is None or now >= self._best:  # None: a row of the file
            return
        self._best = now
        state = {"kind": "best", "bits_per_dim": now, **self.training.position(), **self._facts}
        self._write_best(state, self.evaluations.model)

    def _choose_guidance(self) -> None:
        """For the model that the run is opened by: the best one, which then carries the weight, or else the newest."""
        best, newest = best_checkpoint(self.folder.path, self.around.trust), self.evaluations.model
        model = newest if best is None else best.model().to(newest.device)
        self.evaluations.choose_guidance(model)
        if best is not None and self.evaluations.guidance is not None:
            self._write_best({**best.state, "guidance": self.evaluations.guidance}, model)

    def _write_best(self, state: dict[str, Any], model: Model) -> None:
        weights = {name: weight.detach() for name, weight in model.named_parameters()}
        self.folder.require_held()
        target = self.folder.checkpoints / BEST
        write_weights(target, weights, state, self.config, fitted_tensors(model), self.folder.disk)

    def _save(self, together: Coordinator) -> None:
        """`save`, by the first process; the others know that it is done."""
        gathered = self.training.gathered()
        together.first_does(lambda: self.save(gathered))
        self._saved_step, self._saved_at = self.training.step, self.training.seconds

    def _leave(self, together: Coordinator) -> None:
        assert together.caught is not None, "there is a signal to leave for"
        self._save(together)
        log(f"stopped at step {self.training.step:,}: continue with  markovae train --resume --out {self.folder.path}")
        raise SystemExit(128 + together.caught)
