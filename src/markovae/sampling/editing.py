"""`edit`: one picture edited with a model as prior, in one of six ways."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

import numpy as np
import torch
from torch import Tensor

from markovae.data.data_config import FITS
from markovae.data.fitted_pictures import Mask, Picture, read_mask, read_picture
from markovae.diffusion.cascade import Cascade, Model, one_stage, stages_of
from markovae.diffusion.markovian_vae import evaluating
from markovae.errors import UserError
from markovae.networks.conditioning import Conditioning, as_tensor
from markovae.sampling.cascade_editor import CascadeEditor
from markovae.sampling.conditions import Where, make_condition
from markovae.sampling.editor import Editor
from markovae.sampling.generation import cascade_trajectory, final_latents, to_images
from markovae.sampling.guidance import Guidance, guided, make_guidance
from markovae.sampling.inverse import (
    Blur,
    BoxDown,
    FullCovariance,
    Grey,
    IsotropicCovariance,
    LinearOperator,
    Observation,
)
from markovae.sampling.plans import Plan, plan
from markovae.sampling.sampler_table import DEFAULT_SAMPLER, DEGRADATIONS, EDIT_METHODS
from markovae.tables import one_of

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage

Given = str | Path | np.ndarray | Tensor | Sequence[Any]
BLUR = 1.5  # pixels
QUICK_VARIANCE = 0.25


@dataclass(frozen=True)
class Edit:
    """What an edit made.

        made = mv.edit(model, images[0], from_level=0.5, n=2, steps=4)
        mv.grid(made.images)

    Args:
        images: pixel values, (n, C, H, W).
        given: what it started from, to be shown above them, (·, C, H, W).
        name: of the edit.
        plan, guidance: that it was drawn with.
        error: of a round trip, root mean square in pixel values before rounding; else None.
        picture, mask: as they were read; None where they are not.
    """

    images: np.ndarray
    given: np.ndarray
    name: str
    plan: Plan
    guidance: Guidance
    error: float | None = None
    picture: Picture | None = None
    mask: Mask | None = None

    @property
    def notes(self) -> tuple[str, ...]:
        """How the picture and its mask were understood, in sentences."""
        return (*(self.picture.notes if self.picture else ()), *(self.mask.notes if self.mask else ()))

    @property
    def has_original(self) -> bool:
        """Whether `at_original` has anything to lay into: a mask, and a picture of another size than the model's."""
        return self.mask is not None and self.picture is not None and self.picture.original is not None

    def at_original(self, number: int) -> np.ndarray:
        """Draw `number` laid into the original by its mask, (H, W, C) uint8; what the mask keeps is kept exactly."""
        if not self.has_original:
            raise UserError("only an edit with a mask of a picture of another size is laid back: take images")
        assert self.picture is not None
        assert self.mask is not None
        return self.picture.laid_back(self.images[number], self.mask.strength)


def edit(
    model: Model,
    image: Given | PILImage,
    *,
    mask: Given | PILImage | None = None,
    degrade: str | LinearOperator | None = None,
    from_level: float | None = None,
    to: Given | PILImage | None = None,
    round_trip: bool = False,
    enlarge: bool = False,
    level: float | None = None,
    n: int | None = None,
    sampler: str | Plan | None = None,
    steps: int | None = None,
    seed: int = 0,
    labels: int | str | None = None,
    prompt: str | None = None,
    where: Where = None,
    negative: str | None = None,
    guidance: float | Guidance | None = None,
    method: str | None = None,
    resampling: int | None = None,
    iterations: int | None = None,
    quick: bool = False,
    fit: str = "crop",
    background: str = "white",
) -> Edit:
    """Edit one image with the model as prior, in one of six ways; draw i depends on (seed, i) only.

        made = mv.edit(run.model, "photo.jpg", mask="brushed.png")
        mv.grid(made.images).save("draws.png")

    Args:
        image: a file, an image of PIL, or an array: pixel values or floats in [0, 1], (C, H, W), (H, W, C) or (H, W).
            Of another size than the model's it is fitted as training fits, see `fit`; `notes` of the result say so.
        mask: inpaint: what is white, red or transparent is redrawn (`read_mask`), the others are kept exactly; as
            `image`, or bool (H, W).
        degrade: restore what this leaves of the image: sr2, sr4, sr8, blur, grey, or an operator; an image of the
            degraded size is restored itself.
        from_level: noise the image to level F·L, in (0, 1], and draw again; of a cascade's L levels the last ones are
            the base's, and below them only details are drawn again.
        to: interpolate to this image; `level` in (0, 1] says where the latents are mixed (default 0.5; of a cascade
            half-way up the levels of its base).
        round_trip: encode to noise and decode again.
        enlarge: of a cascade: draw the details of an image of the size of one of its stages; each square of pixels
            drawn keeps the mean that the image has.
        n: images drawn; default 4, for a round trip 1.
        sampler, steps: as for `sample`; the default sampler is dpmpp2m for a round trip and ancestral for RePaint, in
            20 steps, RePaint 50, a cascade as for `sample`.
        labels: a class, or "none", the default: the learned null.
        prompt, where, negative, guidance: as for `sample`.
        method: of `mask`: moments (default) or repaint, for models of one stage.
        resampling: of repaint (default 10).
        iterations: of the solver of moments (default 5).
        quick: moments without the network's derivative.
        fit, background: how images of another size are fitted, and what is under transparency: as in `[data]`.
    Raises:
        UserError: for pictures, words or values that do not go together or with the model.
    """
    ways = {
        "mask": mask,
        "degrade": degrade,
        "from_level": from_level,
        "to": to,
        "round_trip": round_trip or None,
        "enlarge": enlarge or None,
    }
    asked = [name for name, value in ways.items() if value is not None]
    if len(asked) != 1:
        raise UserError(f"exactly one of {', '.join(ways)} says how to edit: {' and '.join(asked) or 'none'} is given")
    _require_together(asked[0], level, n, method, resampling, iterations, quick)
    one_of("fit", fit, FITS)
    method = None if mask is None else method or "moments"
    repaint, count = method == "repaint", 1 if round_trip else 4 if n is None else n
    if count < 1:
        raise UserError(f"n={count} must be at least 1: it counts the images drawn")
    if isinstance(sampler, Plan) and steps is not None:
        raise UserError(f"steps={steps} and a plan are both given: leave steps out")
    push = make_guidance(model, guidance, prompt=prompt, negative=negative)
    what = None if prompt is not None else "none" if labels is None else labels
    if enlarge:
        given = make_condition(model, count, labels=what, prompt=prompt, where=where)
        chosen = sampler if isinstance(sampler, Plan) else plan(model, sampler or DEFAULT_SAMPLER, steps)
        return _enlarge(model, image, count, chosen, seed, given, push)
    cascaded = isinstance(model, Cascade) and model.octaves > 0
    if cascaded and repaint:
        raise UserError(
            "method repaint takes a model of one stage: it cannot hold the known pixels of a square that a cascade's "
            "stages share; take moments"
        )
    if isinstance(sampler, Plan):
        chosen = sampler
    else:
        default = "dpmpp2m" if round_trip else "ancestral" if repaint else DEFAULT_SAMPLER
        nfe = steps if steps is not None or cascaded else min(50 if repaint else 20, model.num_levels)
        chosen = plan(model, sampler or default, nfe)
    if round_trip and min(len(each.grid) for each in (chosen, *chosen.details)) < 3:
        raise UserError(f"steps={steps} leaves no step to noise and back: take more")
    given = make_condition(model, count, labels=what, prompt=prompt, where=where)
    condition = None if given is None else given.condition().to(model.device)
    editor: Editor | CascadeEditor
    if isinstance(model, Cascade) and model.octaves:
        editor = CascadeEditor(model, chosen, seed, condition, push)
    else:
        model = one_stage(model, "an edit")
        editor = Editor(model, chosen, seed, condition, guided(model, condition, push))
    covariance = IsotropicCovariance(QUICK_VARIANCE) if quick else FullCovariance()
    solver = 5 if iterations is None else iterations
    error = masked = None
    if degrade is not None:
        picture, y, shown, name = _observe(model, image, degrade, fit, background)
        drawn = editor.restore(Observation(y[0], y[1].expand(count, *y[1].shape[1:])), covariance, solver)
    else:
        picture = _picture(model, image, "image", fit=fit, background=background)
        x = _on_scale(model, picture)
        shown, many = x, x.expand(count, *model.shape)
        if mask is not None:
            masked = _mask(mask, picture)
            known = ~torch.from_numpy(masked.unknown)
            shown = torch.cat([x, torch.where(known.to(x.device), x, torch.zeros_like(x))])
            name = f"inpainting by {method}"
            if isinstance(editor, Editor) and repaint:
                drawn = editor.repaint(many, known, 10 if resampling is None else resampling)
            else:
                drawn = editor.inpaint(many, known, covariance, solver)
        elif to is not None:
            other = _on_scale(model, _picture(model, to, "to", fit=fit, background=background))
            shown, name = torch.cat([x, other]), "interpolation"
            half = 1 - stages_of(model)[0].num_levels / (2 * model.num_levels)  # of the stage that draws the form
            drawn = editor.interpolate(x[0], other[0], count, half if level is None else level)
        elif round_trip:
            drawn, name = editor.round_trip(x), "round trip"
            error = float((drawn.double() - x.double()).square().mean().sqrt()) / (2 * model.pixels.half_width)
        else:
            assert from_level is not None
            drawn, name = editor.vary(many, from_level), f"from level {from_level:g}"
    return Edit(to_images(model, drawn), to_images(model, shown), name, chosen, push, error, picture, masked)


def _enlarge(
    model: Model,
    image: Given | PILImage,
    count: int,
    steps_plan: Plan,
    seed: int,
    given: Conditioning | None,
    push: Guidance,
) -> Edit:
    """Draws of the detail stages behind the one whose size the image has."""
    if not isinstance(model, Cascade) or not model.octaves:
        raise UserError(
            "enlarge draws details by a cascade's stages, and this model has one stage: degrade=sr2 restores"
        )
    channels, height, width = model.shape
    sizes = [(channels, height >> below, width >> below) for below in range(model.octaves, 0, -1)]
    picture = _picture(model, image, "image", sizes)
    if tuple(picture.pixels.shape) not in sizes:
        known = " or ".join(f"{w}x{h}" for _, h, w in sizes)
        raise UserError(f"enlarge takes an image of the size of one of the stages, {known}: resize it first")
    below = model.octaves - sizes.index(tuple(picture.pixels.shape))
    details = steps_plan.details[model.octaves - below :]
    x = _on_scale(model, picture)
    condition = None if given is None else given.condition().to(model.device)
    used, many = replace(steps_plan, details=details), x.expand(count, *x.shape[1:])
    with evaluating(model):
        drawn = final_latents(cascade_trajectory(model, range(count), used, seed, condition, push, many))
    shown = to_images(model, x).repeat(1 << below, -1).repeat(1 << below, -2)
    return Edit(to_images(model, drawn), shown, f"enlarging {1 << below} times", used, push, picture=picture)


def _require_together(
    way: str,
    level: float | None,
    n: int | None,
    method: str | None,
    resampling: int | None,
    iterations: int | None,
    quick: bool,
) -> None:
    if method not in (None, *EDIT_METHODS):
        raise UserError(f"method {method!r} is unknown: take one of {', '.join(EDIT_METHODS)}")
    solved = way == "degrade" or (way == "mask" and method != "repaint")
    for name, value, fits, owner in (
        ("level", level, way == "to", "an edit with `to`"),
        ("n", None if n == 1 else n, way != "round_trip", "an edit that draws, and a round trip gives one image"),
        ("method", method, way == "mask", "an edit with a mask"),
        ("resampling", resampling, method == "repaint", "the method repaint"),
        ("iterations", iterations, solved, "degrade, or to a mask by moments"),
        ("quick", quick or None, solved, "degrade, or to a mask by moments"),
    ):
        if value is not None and not fits:
            raise UserError(f"{name} belongs to {owner}: leave it out")
    if way == "to" and n == 1:
        raise UserError("n=1: an interpolation shows both ends, so it needs 2 or more")


def _observe(
    model: Model, image: Given | PILImage, how: str | LinearOperator, fit: str, background: str
) -> tuple[Picture, tuple[LinearOperator, Tensor], Tensor, str]:
    """The picture, (operator, observation), what is shown of both, and the edit's name."""
    operator, shape, word = _operator(model, how)
    picture = _picture(model, image, "image", (shape,), fit, background)
    if tuple(picture.pixels.shape) == model.shape:
        x = _on_scale(model, picture)
        y, given = operator.apply(x), [x]
    else:
        y, given = _on_scale(model, picture), []
    shown = y
    if y.shape[2:] != model.shape[1:]:
        factor = model.shape[-1] // y.shape[-1]
        shown = y.repeat_interleave(factor, -1).repeat_interleave(factor, -2)
    return picture, (operator, y), torch.cat([*given, shown.expand(1, *model.shape)]), f"restoration of {word}"


def _operator(model: Model, how: str | LinearOperator) -> tuple[LinearOperator, tuple[int, ...], str]:
    """The operator, the shape of what it leaves, and its name."""
    channels, height, width = model.shape
    if isinstance(how, LinearOperator):
        try:
            left = how.apply(torch.zeros(1, *model.shape)).shape[1:]
        except ValueError as error:
            raise UserError(str(error)) from None
        return how, tuple(left), type(how).__name__
    if how not in DEGRADATIONS:
        raise UserError(f"degrade {how!r} is unknown: take one of {', '.join(DEGRADATIONS)}")
    if how == "blur":
        return Blur(height, width, BLUR), (channels, height, width), how
    if how == "grey":
        if channels != 3:
            raise UserError("degrade grey: this model's images have no color to be restored")
        return Grey(), (1, height, width), how
    factor = int(how.removeprefix("sr"))
    if height % factor or width % factor:
        raise UserError(f"degrade {how}: images of {width}x{height} do not divide into squares of {factor}")
    return BoxDown(factor), (channels, height // factor, width // factor), how


def _on_scale(model: Model, picture: Picture) -> Tensor:
    return model.pixels.to_x(as_tensor(picture.pixels))[None].to(model.device, torch.float32)


def _picture(
    model: Model,
    given: Given | PILImage,
    name: str,
    exact: Sequence[tuple[int, ...]] = (),
    fit: str = "crop",
    background: str = "white",
) -> Picture:
    """A picture as the model sees it, or of one of the `exact` shapes where it has that size."""
    bins, shape = model.pixels.bins, model.shape
    if _is_picture(given):
        if bins != 256:
            raise UserError(f"this model's pixels have {bins} values and pictures 256: give {name} as an array")
        return read_picture(given, shape, exact, fit, background)
    values = _whole(given, name, bins)
    if tuple(values.shape) in {tuple(one) for one in (shape, *exact)}:
        return Picture(values, name)
    if bins != 256 or values.ndim not in (2, 3):
        wanted = " or ".join(str(tuple(one)) for one in dict.fromkeys((shape, *exact)))
        raise UserError(f"{name} has shape {tuple(values.shape)}: {wanted} is taken here")
    return read_picture(_as_pil(values, name), shape, exact, fit, background)


def _is_picture(given: Given | PILImage) -> TypeGuard[str | Path | PILImage]:
    """Whether it is a file or an image of PIL, and no array."""
    return isinstance(given, str | Path) or hasattr(given, "getbands")


def _whole(given: Any, name: str, bins: int) -> np.ndarray[Any, Any]:
    """Whole pixel values 0…bins−1 of an array, a tensor or a list; floats in [0, 1] go to the nearest."""
    try:
        values = given.detach().cpu().numpy() if isinstance(given, Tensor) else np.asarray(given)
    except ValueError:
        raise UserError(f"{name} is a list whose rows differ in length: give an array") from None
    if values.dtype.kind not in "biuf" or not values.size:
        raise UserError(f"{name} of type {type(given).__name__} is not a picture: give a file, an image or an array")
    low, high = values.min(), values.max()
    if values.dtype.kind == "f":
        if not 0 <= low <= high <= 1:
            raise UserError(f"{name} holds floats from {low:g} to {high:g}: give pixel values 0…{bins - 1}, or 0…1")
        return np.rint(values * (bins - 1)).astype(np.uint8 if bins <= 256 else np.int32)
    if values.dtype.kind == "b":
        return values.astype(np.uint8) * np.uint8(min(bins - 1, 255))
    if low < 0 or high >= bins:
        raise UserError(f"{name} holds values outside 0…{bins - 1}: those are this model's pixel values")
    return values.astype(np.uint8 if bins <= 256 else np.int32)


def _as_pil(values: np.ndarray[Any, Any], name: str) -> PILImage:
    """An image of 8 bits from an array (H, W), (H, W, C) or (C, H, W)."""
    from PIL import Image

    if values.ndim == 3 and values.shape[-1] not in (1, 3, 4) and values.shape[0] in (1, 3, 4):
        values = np.moveaxis(values, 0, -1)
    if values.ndim == 3 and values.shape[-1] == 1:
        values = values[..., 0]
    if values.ndim == 3 and values.shape[-1] not in (3, 4):
        raise UserError(f"{name} has shape {tuple(values.shape)}: a picture has 1, 3 or 4 channels")
    return Image.fromarray(np.ascontiguousarray(values))


def _mask(mask: Given | PILImage, picture: Picture) -> Mask:
    """Where to draw anew."""
    if _is_picture(mask):
        return read_mask(mask, picture)
    values = _whole(mask, "mask", 256)
    if values.ndim not in (2, 3):
        raise UserError(f"the mask has shape {tuple(values.shape)}: give (H, W) of bool, True where pixels are redrawn")
    return read_mask(_as_pil(values, "the mask"), picture)
