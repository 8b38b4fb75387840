"""Whether what a bundle holds belongs together: compared before a model is made of it, so an older one can serve."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from markovae.build import UntrustedNetworkError, create_outline
from markovae.checkpoints.manifest import CheckpointError
from markovae.checkpoints.tensors import entries_of, read_tensors, require_finite
from markovae.config import Config
from markovae.diffusion.cascade import Model
from markovae.diffusion.fitted_variance import fitted_buffers
from markovae.diffusion.learned_schedule import LearnedLogSNR
from markovae.diffusion.reverse import check_errors
from markovae.errors import UserError
from markovae.networks.conditioning import TextConditioner
from markovae.system.tensor_headers import TensorEntry, compare_shapes

WEIGHTS = ("model.safetensors", "ema.safetensors")
FITTED = "fitted.safetensors"  # in bundles of models whose reverse variance is fitted, and was by then
OPTIMIZER = "optimizer.safetensors"


def require_fit(
    folder: Path,
    contents: Mapping[str, bytes],
    config: Config,
    shape: tuple[int, ...],
    bins: int,
    num_classes: int,
    text_conditioner: TextConditioner | None,
    trust: Sequence[str] = (),
) -> None:
    """Compare the tensors of a bundle, by their headers, with the model that its configuration describes.

    Args:
        folder: of the bundle.
        contents: its files, by name.
        config: of the run.
        shape, bins, num_classes, text_conditioner, trust: of the model, as for `create`.
    Raises:
        CheckpointError: naming the file and the first thing that does not fit, or is NaN or Inf.
    """
    entries = {
        name: entries_of(content, folder / name) for name, content in contents.items() if name.endswith(".safetensors")
    }
    shapes = {name: {key: entry.shape for key, entry in table.items()} for name, table in entries.items()}
    counts = {name: len(shapes[name]) for name in WEIGHTS if name in shapes}
    fewest = min(counts, key=counts.__getitem__, default=None)
    try:
        tensors = None if fewest is None else counts[fewest]
        outline = create_outline(
            config,
            shape,
            bins=bins,
            num_classes=num_classes,
            text_conditioner=text_conditioner,
            tensors=tensors,
            trust=trust,
        )
    except UntrustedNetworkError:
        raise
    except UserError as error:
        raise CheckpointError(f"{folder} describes no model: {error}") from None
    except ValueError as error:
        raise CheckpointError(f"{folder / (fewest or 'config.toml')} does not fit the configuration: {error}") from None
    parameters = {name: tuple(weight.shape) for name, weight in outline.named_parameters()}
    wanted = dict.fromkeys(WEIGHTS, parameters)
    wanted[FITTED] = {name: tuple(table.shape) for name, table in fitted_buffers(outline).items()}
    for name in wanted.keys() & shapes.keys():
        try:
            compare_shapes(wanted[name], shapes[name], what="fitted variance table" if name == FITTED else "weight")
        except ValueError as error:
            raise CheckpointError(f"{folder / name} does not fit the configuration beside it: {error}") from None
    if OPTIMIZER in shapes:
        _require_moments(entries[OPTIMIZER], outline, config, folder / OPTIMIZER)
    for name in shapes:
        require_finite(contents[name], folder / name)
    if OPTIMIZER in shapes:
        _require_variances(contents[OPTIMIZER], folder / OPTIMIZER)
    if FITTED in shapes:
        _require_errors(contents[FITTED], folder / FITTED)
    for name in WEIGHTS:
        if name in shapes and isinstance(outline.schedule, LearnedLogSNR):
            _require_schedule(outline.schedule, contents[name], folder / name)


def _require_moments(entries: Mapping[str, TensorEntry], outline: Model, config: Config, path: Path) -> None:
    """Each weight's moments have its shape, and are those of its half of the optimizer, all of them or none."""
    from markovae.training.optimizers import split_model

    if isinstance(outline.schedule, LearnedLogSNR):
        outline.schedule.requires_grad_(True)  # as in training
    matrices, others = split_model(outline, outline.network, config.train.optimizer)
    left = dict(entries)
    for number, weight in enumerate((*matrices, *others)):
        shape = tuple(weight.shape)
        wanted = {"momentum": shape} if number < len(matrices) else {"first": shape, "second": shape, "step": ()}
        found = {name: left.pop(f"{number}.{name}").shape for name in wanted if f"{number}.{name}" in left}
        if found and found != wanted:
            raise CheckpointError(
                f"{path} does not fit the configuration beside it: weight {number} has {found} where {wanted} belong"
            )
    for name in left:
        raise CheckpointError(f"{path} does not fit the configuration beside it: {name[:80]!r} is of no weight")


def _require_variances(content: bytes, path: Path) -> None:
    """Second moments are squares, and steps are counted from 1."""
    for name, value in read_tensors(content, path).items():
        least = {"second": 0, "step": 1}.get(name.rpartition(".")[2])
        if least is not None and value.numel() and not bool(value.min() >= least):
            raise CheckpointError(f"{path} is of no use: {name} is below {least}")


def _require_errors(content: bytes, path: Path) -> None:
    """The tables of a fitted variance hold errors at log-SNRs that fall."""
    tables = read_tensors(content, path)
    try:
        for name, table in tables.items():
            if name.endswith("errors.logsnr"):
                check_errors(table, tables[name.removesuffix("logsnr") + "error"])
    except UserError as error:
        raise CheckpointError(f"{path} is of no use: {error}") from None


def _require_schedule(schedule: LearnedLogSNR, content: bytes, path: Path) -> None:
    """A learned schedule is a few numbers among the weights, any of which may make it one that does not fall."""
    tensors = read_tensors(content, path)
    try:
        schedule.load_state_dict({name: tensors[f"schedule.{name}"] for name in schedule.state_dict()})
        schedule.require_usable()
    except ValueError as error:
        raise CheckpointError(f"{path} is of no use: {error}") from None
