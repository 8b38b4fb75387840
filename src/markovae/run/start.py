"""`train` and `resume`: a run in a folder, from its configuration to its last checkpoint."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from markovae.build import create, with_stages
from markovae.checkpoints.manifest import CheckpointError
from markovae.checkpoints.reading import Checkpoint, LoadedRun, load, load_run, newest_checkpoint, open_checkpoint
from markovae.checkpoints.saving import describe_network, save
from markovae.checkpoints.writing import set_newer_aside
from markovae.config import Config
from markovae.data.data_config import BUILT_IN
from markovae.data.loading import load_data, reopen
from markovae.data.shard_store import BRACES
from markovae.data.split import Splits
from markovae.diffusion.cascade import Model
from markovae.diffusion.learned_schedule import LearnedLogSNR
from markovae.diffusion.model import Diffusion, load_weights
from markovae.errors import UserError
from markovae.locations import FromFile, is_elsewhere
from markovae.networks.network_config import ConditionConfig
from markovae.run.choices import choices
from markovae.run.introduction import introduction, list_unreadable, warn_of_choices, warn_without_lock
from markovae.run.loggers import Logger, Loggers
from markovae.run.run_folder import TEACHER, RunFolder
from markovae.run.session import Session
from markovae.run.surroundings import PLAIN, Surroundings
from markovae.system.device import device_named
from markovae.system.distributed import joined
from markovae.system.files import replace_file
from markovae.system.lock import Lock, hold
from markovae.system.processes import current_rank
from markovae.text.conditioner import EncoderConditioner, attach_conditioning
from markovae.training.distillation_config import DistillConfig
from markovae.training.trainer import Training

if TYPE_CHECKING:
    from markovae.training.distillation import Distillation


def train(
    data: str | Path | None,
    out: str | Path,
    config: Config | None = None,
    *,
    network: nn.Module | None = None,
    trust: Sequence[str] = (),
    init: str | Path | None = None,
    loggers: Iterable[Logger | str] = (),
    progress: bool = True,
    device: str | torch.device = "auto",
    held: Lock | None = None,
) -> LoadedRun:
    """Train a model on images and keep the run in a folder: checkpoints, metrics.jsonl, samples.

        run = mv.train("photos/", "runs/photos", mv.Config().with_settings(["train.minutes=10"]))
        images = mv.sample(run.model, 16)

    Under torchrun all processes train together, and a job that torchrun starts anew continues its run.

    Args:
        data: faces, digits, an image folder, an array file or shards; None is config.data.source.
        out: the run's folder, new or empty.
        config: of the run; None is the default, which trains for five minutes.
        network: of your own, network(z, logsnr, condition) -> out, with its weights as they are; the run records its
            class and `network.config`, the arguments of its constructor, and trusts it.
        trust: classes that network.own of the configuration may name, each "package.module:Class": they are imported.
        init: a run or checkpoint whose averaged weights are the first ones.
        loggers: objects with `log(values, step)`, "tensorboard" or "wandb", besides metrics.jsonl.
        progress: show a bar and remarks on stderr; warnings are shown either way.
        device: auto (a CUDA device where there is one, else the CPU), cpu, cuda:1.
        held: the folder's lock, where the caller holds it already (`lock.hold`).
    Returns: the finished run, its model with averaged weights.
    Raises:
        UserError: before anything is written, for a folder that is not empty, data that cannot be used, or a
            configuration that does not fit them.
        StoppedRun: for a loss that is NaN or Inf, or a disk that refuses, naming the last checkpoint.
        SystemExit: 130 or 143 after a signal, the present step saved.
    """
    if data is not None and not isinstance(data, str | Path):
        raise UserError(f"data must name images on disk, not {type(data).__name__}: save them, or train with mv.fit")
    if data is None and config is None:
        raise UserError("name the images with data, or in config.data.source")
    config = Config() if config is None else config
    if data is not None:
        config = replace(config, data=replace(config.data, source=str(data)))
    if network is not None:
        config = replace(config, network=describe_network(network))
        trust = trust if config.network.own is None else (*trust, config.network.own.name)
    around = Surroundings(trust, loggers, progress, device_named(device), held)
    if _restarted(Path(out)):
        named = is_elsewhere(config.data.source) and not isinstance(config.data.source, FromFile)
        path = resume_run(out, around, data=str(config.data.source) if named else None)
    else:
        path = train_run(config, out, around, network=network, init=init)
    return load_run(path, device=around.device, trust=trust)


def resume(
    out: str | Path,
    *,
    steps: int | None = None,
    minutes: float | None = None,
    data: str | Path | None = None,
    trust: Sequence[str] = (),
    loggers: Iterable[Logger | str] = (),
    progress: bool = True,
    device: str | torch.device = "auto",
    held: Lock | None = None,
) -> LoadedRun:
    """Continue the run in `out` from its newest checkpoint that verifies, bit by bit as if it had never stopped.

        run = mv.resume("runs/photos")

    Without a new budget the run continues to its stored number of steps; a finished one is left as it is.

    Args:
        steps, minutes: a new budget, counted from the run's beginning.
        data: where its images are now, where they were moved.
        trust, loggers, progress, device, held: as for `train`; a network of your own must be named in `trust`.
    Raises:
        UserError: where `out` is not a run, the data changed, or the new budget is spent already.
        CheckpointError: where no checkpoint verifies.
        StoppedRun, SystemExit: as `train`.
    """
    if _restarted(Path(out)):
        steps = minutes = None  # the first start of the job has stored them
    around = Surroundings(trust, loggers, progress, device_named(device), held)
    path = resume_run(out, around, steps=steps, minutes=minutes, data=None if data is None else str(data))
    return load_run(path, device=around.device, trust=trust)


def _restarted(out: Path) -> bool:
    """Whether torchrun starts the job anew (--max-restarts) and there is a checkpoint to continue from."""
    return current_rank().restarts > 0 and (out / "checkpoints").is_dir() and any((out / "checkpoints").glob("step-*"))


def train_run(
    config: Config,
    out: str | Path,
    around: Surroundings = PLAIN,
    *,
    network: nn.Module | None = None,
    init: str | Path | None = None,
) -> Path:
    """`train`, once its arguments are a configuration and surroundings; the run's folder.

    Args:
        config: relative paths to its data and to its text encoder are made absolute.
        network, init: as for `train`.
    """
    folder, config = RunFolder(out, around.disk), _with_absolute_paths(config)
    _require_outside(folder.path, config.data.source)
    with (
        closing(Loggers(around.loggers)) as folder.loggers,
        _locked(folder, around.held) as folder.lock,
        joined(config.train.timeout, torch.device(around.device)) as ranks,
    ):
        ranks.first_does(folder.require_empty)
        splits = ranks.in_turn(lambda: load_data(config.data))
        source = None if init is None else open_checkpoint(init, around.trust)
        theirs = None if source is None else source.config.network
        if source is not None and config.condition.kind == "auto":  # what its weights read
            kind = "class" if source.text_conditioner is None else "text"
            config = replace(config, condition=replace(config.condition, kind=kind))
        config, chosen = choices(config, splits.train, torch.device(around.device), theirs)
        config, model = _create(config, splits, source, init, network, around.trust)
        del source  # its bytes would stay for the whole run
        model = model.to(around.device)
        data = ranks.in_turn(lambda: attach_conditioning(model, splits.train))
        own = None
        if config.distill is not None:
            if init is None:
                raise UserError(
                    "[distill] makes a student, and names no teacher: use markovae distill RUN, or add --init RUN"
                )
            own = _distillation(model, load(init, trust=around.trust), config.distill, init)
        training = Training(
            model, data, config.train, config.data.flip, around.clock, ranks, own, init is not None and own is None
        )
        record = splits.record()
        session = Session(folder, config, splits, record, training, around)
        gathered = [training.gathered()]  # taken out below: of a spread model it is the whole, which must not stay

        def begin() -> None:
            folder.clear()
            warn_without_lock(folder)
            session.require_space()
            warn_of_choices(training)
            for line in (*introduction(config, folder, splits, training), *chosen):
                around.remark(line)
            if own is not None:
                save(own.teacher, folder.path / TEACHER)
            # The first checkpoint comes before all else: from then on the folder is a run that can be resumed.
            session.save(gathered.pop())
            _describe(folder, config, record)
            list_unreadable(folder, splits)
            folder.loggers.open(folder.path, config)

        ranks.first_does(begin)
        gathered.clear()
        session.go()
    return folder.path


def resume_run(
    out: str | Path,
    around: Surroundings = PLAIN,
    *,
    steps: int | None = None,
    minutes: float | None = None,
    data: str | None = None,
) -> Path:
    """`resume`, once its arguments are surroundings; the run's folder."""
    folder, trust = RunFolder(out, around.disk), around.trust
    folder.open()
    with closing(Loggers(around.loggers)) as folder.loggers, _locked(folder, around.held) as folder.lock:
        if current_rank().first:
            folder.clear()
        checkpoint = newest_checkpoint(folder.path, trust)
        record = checkpoint.split_record
        stored, config = checkpoint.config, _moved(_extended(checkpoint, steps, minutes), data)
        with joined(config.train.timeout, torch.device(around.device)) as ranks:
            ranks.require_same(checkpoint.step, f"{folder.path} shows each process another newest checkpoint")
            splits = ranks.in_turn(lambda: reopen(config.data, record, config.condition.kind == "text"))
            model = create(
                config,
                checkpoint.shape,
                bins=splits.train.bins,
                num_classes=len(checkpoint.class_names),
                text_conditioner=checkpoint.text_conditioner,
                trust=trust,
            )
            checkpoint.require_same_words(splits)
            known = ranks.in_turn(lambda: attach_conditioning(model, splits.train))
            model, own = model.to(around.device), None
            if config.distill is not None:
                held_by = folder.path / TEACHER
                own = _distillation(model, load(held_by, trust=trust), config.distill, held_by)
            training = Training(model, known, config.train, config.data.flip, around.clock, ranks, own)
            _restore(training, checkpoint)
            if steps is not None or minutes is not None:
                training.extend(steps=steps, minutes=minutes)
            if training.budget.total is None and training.budget.seconds is None:
                raise CheckpointError(f"{checkpoint.path} has no total_steps, and its budget is no time")
            gathered = [] if config == stored else [training.gathered()]
            session = Session(folder, config, splits, record, training, around)
            path = checkpoint.path
            del checkpoint  # its bytes, weights and averages and the optimizer's, would stay for the whole run

            def begin() -> None:
                warn_without_lock(folder)
                set_newer_aside(folder.checkpoints, path, folder.disk)
                if training.done:
                    around.remark(
                        f"{out} has finished its {training.step:,} steps: extend it with a larger --steps or --minutes"
                    )
                else:
                    session.require_space()
                    list_unreadable(folder, splits)
                if gathered:  # what is new outlives whatever comes before the next save
                    session.save(gathered.pop())
                if config != stored or not training.done:
                    _describe(folder, config, record)
                folder.loggers.open(folder.path, config)

            ranks.first_does(begin)
            gathered.clear()
            session.resumed(path)
            session.go()
    return folder.path


def _distillation(student: Model, teacher: Model, config: DistillConfig, name: str | Path) -> Distillation:
    """The loss of a student.

    Args:
        name: of the teacher, in the errors.
    Raises:
        UserError: for a teacher that is a student itself or of several stages, has other images, or is not defined
            between its levels.
    """
    if not isinstance(teacher, Diffusion) or not isinstance(student, Diffusion):
        raise UserError(f"{name} is a cascade, and a student has one stage: distill a model of one stage")
    if teacher.calls is not None:
        raise UserError(f"{name} is a student of {teacher.calls} evaluations itself: distill the run that it came from")
    if teacher.target.needs_neighbour:
        raise UserError(
            f"{name} has target.name={teacher.target.name}, defined by the steps of its grid, and a student crosses "
            "several at once: distill a model of velocity, flow, noise, data or score"
        )
    if isinstance(teacher.schedule, LearnedLogSNR):
        raise UserError(f"{name} has schedule.kind=learned, which moves while it is trained: distill another schedule")
    from markovae.training.distillation import Distillation

    return Distillation(student, teacher.to(student.device), config)


def _locked(folder: RunFolder, held: Lock | None) -> AbstractContextManager[Lock | None]:
    """The folder's lock, which the first of several processes holds for all."""
    return hold(folder.path) if held is None and current_rank().first else nullcontext(held)


def _create(
    config: Config,
    splits: Splits,
    source: Checkpoint | None,
    init: str | Path | None,
    network: nn.Module | None,
    trust: Sequence[str],
) -> tuple[Config, Model]:
    """The model, and the configuration with the text encoder that its weights read.

    Args:
        source, init: whose averaged weights are the first ones, and its name as it was given.
    """
    train, text_conditioner = splits.train, None
    if source is not None and source.text_conditioner is not None and config.condition.kind == "text":
        # Weights that read one encoder's features mean nothing on another's.
        if config.condition.encoder == ConditionConfig.encoder:
            config = replace(config, condition=replace(config.condition, encoder=source.text_conditioner.name))
        text_conditioner = EncoderConditioner(
            config.condition.encoder, source.text["sha256"], source.text_conditioner.width
        )
    if source is not None and source.config.cascade.scales is not None and config.cascade.scales is None:
        # The stages' weights know details by the scale that they were trained at.
        config = replace(config, cascade=source.config.cascade)
    if source is not None and source.config.condition.columns == config.condition.columns:
        config = replace(config, condition=replace(config.condition, encoding=source.config.condition.encoding))
    config = with_stages(config, train)
    model = create(
        config,
        train.shape,
        bins=train.bins,
        num_classes=len(train.class_names),
        text_conditioner=text_conditioner,
        network=network,
        trust=trust,
    )
    if source is not None:
        try:
            load_weights(model, source.tensors("ema"))
            _require_same_meaning(config, source, f"--init {init}")
        except UserError:
            raise
        except ValueError as error:
            raise UserError(
                f"--init {init} does not fit this run: {error}; take its configuration ({source.path}/config.toml) and "
                "data of the same shape"
            ) from None
    return config, model


def _require_same_meaning(config: Config, source: Checkpoint, name: str) -> None:
    """Weights of the same shapes whose output says something else would be taken without a word.

    Raises:
        UserError: for another target, other places of the pixels, or another scale of a cascade's details.
    """
    for section, key in (("target", "name"), ("target", "pixels"), ("cascade", "scales")):
        here, there = (getattr(getattr(one, section), key) for one in (config, source.config))
        if here != there:
            raise UserError(
                f"{name} has {section}.{key}={there} and this run {here}, so its weights mean something else: "
                f"set {section}.{key}={there}, or leave --init out"
            )


def _restore(training: Training, checkpoint: Checkpoint) -> None:
    tensors = checkpoint.all_tensors()
    try:
        training.restore(tensors, checkpoint.state)
    except CheckpointError:
        raise
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{checkpoint.path} does not fit its own configuration: {error}") from None


def _extended(checkpoint: Checkpoint, steps: int | None, minutes: float | None) -> Config:
    if steps is None and minutes is None:
        return checkpoint.config
    if steps is not None and steps <= checkpoint.step:
        raise UserError(f"--steps {steps} is spent: the run has taken {checkpoint.step:,} steps; ask for more")
    spent = float(checkpoint.state["seconds"]) / 60
    if minutes is not None and minutes <= spent:
        raise UserError(f"--minutes {minutes:g} is spent: the run has trained {spent:.1f} minutes; ask for more")
    return replace(checkpoint.config, train=replace(checkpoint.config.train, steps=steps, minutes=minutes))


def _moved(config: Config, source: str | None) -> Config:
    """The configuration with its data at another place; that they are the same is checked as always."""
    if source is None:
        return config
    return _with_absolute_paths(replace(config, data=replace(config.data, source=source)))


def _with_absolute_paths(config: Config) -> Config:
    """A run is resumed from any folder."""
    try:
        source, encoder = Path(config.data.source).expanduser(), Path(config.condition.encoder).expanduser()
    except RuntimeError:
        raise UserError(
            f"unknown user in path {config.data.source} or {config.condition.encoder}: give the whole path"
        ) from None
    braces = not is_elsewhere(config.data.source) and BRACES.search(config.data.source) is not None
    if config.data.source not in BUILT_IN and (source.exists() or braces):
        config = replace(config, data=replace(config.data, source=str(source.resolve())))
    if encoder.is_dir():
        config = replace(config, condition=replace(config.condition, encoder=str(encoder.resolve())))
    return config


def _require_outside(out: Path, source: str) -> None:
    """The pictures that a run makes are none of its data.

    Raises:
        UserError: for a run inside its own folder of images.
    """
    folder = Path(source)
    if is_elsewhere(source) or folder not in (out.resolve(), *out.resolve().parents) or not folder.is_dir():
        return
    from markovae.data.arrays import holds_idx_files
    from markovae.data.shard_format import RECORD

    if not holds_idx_files(folder) and not (folder / RECORD).is_file():
        raise UserError(
            f"--out {out} lies in the data, {source}, and its pictures would be read as images: name a folder elsewhere"
        )


def _describe(folder: RunFolder, config: Config, record: dict[str, Any]) -> None:
    replace_file(folder.config, config.to_toml().encode(), folder.disk)
    replace_file(folder.split, (json.dumps(record, indent=1) + "\n").encode(), folder.disk)
