"""What a visitor of the page can ask for: samples, the bits of an image, edits. Each is an iterator of events."""

from __future__ import annotations

import base64
import binascii
import shlex
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch

from markovae.checkpoints.reading import LoadedRun
from markovae.columns import MAX_COLUMNS
from markovae.data.image_files import channels_first, fit_image, flat_picture
from markovae.data.image_reader import open_image
from markovae.data.images import Pixels
from markovae.data.pictures import data_uri, png, viewable
from markovae.diffusion.bound import estimate_mean
from markovae.diffusion.cascade import one_stage
from markovae.diffusion.markovian_vae import evaluating
from markovae.errors import UserError, reason_of
from markovae.likelihood.pixel_nats import PixelNats, pixel_nats
from markovae.quality.memorization import nearest, pool_of
from markovae.sampling.conditions import make_condition
from markovae.sampling.editor import Editor
from markovae.sampling.generation import batch_trajectories, to_images
from markovae.sampling.guidance import guided, make_guidance
from markovae.sampling.plans import Plan, plan
from markovae.sampling.sampler_table import DEFAULT_SAMPLER, SAMPLERS
from markovae.system.memory import out_of_memory
from markovae.web.desk import Event

LIMITS = {"n": 64, "steps": 250, "seed": 2**53, "text": 500, "replicates": 64, "between": 16}
MAX_UPLOAD = 10 * 2**20
MAX_PIXELS = 16 * 10**6
REPLICATES = 6
FRAMES = 40
NEIGHBOURS = 3


class Studio:
    """A run's model and what is known of its data.

    Args:
        run: opened.
        training: images it was trained on, (n, C, H, W), for neighbours; None where they are not at hand.
    """

    def __init__(self, run: LoadedRun, training: Any | None = None) -> None:
        self.run, self.model = run, one_stage(run.model, "the page in the browser")
        self.pool = None if training is None else pool_of(training)

    def about(self) -> dict[str, Any]:
        """What the page must know to draw its controls."""
        model = self.model
        return {
            "run": str(self.run.path),
            "step": self.run.checkpoint.step,
            "digest": self.run.checkpoint.digest[:16],
            "shape": list(model.shape),
            "levels": model.num_levels,
            "logsnr": [float(model.schedule.logsnr[1]), float(model.schedule.logsnr[-1])],
            "classes": list(self.run.class_names) or [str(k) for k in range(self.run.num_classes)],
            "prompts": model.text_conditioner is not None,
            "columns": [column.to_dict() for column in model.columns.each] if model.columns else [],
            "null": model.null_trained,
            "samplers": list(SAMPLERS),
            "sampler": DEFAULT_SAMPLER,
            "neighbours": self.pool is not None,
            "limits": {"n": LIMITS["n"], "steps": LIMITS["steps"], "upload": MAX_UPLOAD},
        }

    # -- samples -----------------------------------------------------------------------------------------------

    def sample(self, asked: Mapping[str, Any]) -> Iterator[Event]:
        """Images from noise, with z and x̂ on the way.

        Args:
            asked: n, steps, seed, sampler, label (a class's number, null or "none"), prompt, where (values of columns
                by name), guidance; each optional.
        Raises:
            UserError: for a value out of its range, or that the model does not take.
        """
        n, steps = _whole(asked, "n", 1, LIMITS["n"], 16), _whole(asked, "steps", 1, LIMITS["steps"], 20)
        seed = _whole(asked, "seed", 0, LIMITS["seed"], 0)
        sampler = _word(asked, "sampler", DEFAULT_SAMPLER)
        chosen = plan(self.model, sampler, steps)
        condition, push, words = self._conditioned(asked, n)
        total = len(chosen.grid)
        every = -(-total // FRAMES)
        command = f"markovae sample {shlex.quote(str(self.run.path))} --n {n} --steps {steps} --sampler {sampler}"
        command += f" --seed {seed}{words} --batch {n}"
        with evaluating(self.model), torch.no_grad():
            states = next(
                batch_trajectories(self.model, n, chosen, seed=seed, batch=n, condition=condition, guidance=push)
            )
            last = None
            for place, state in enumerate(states):
                last = state
                frame = place % every == 0 or place == total - 1
                yield {
                    "kind": "progress",
                    "done": place + 1,
                    "of": total,
                    "logsnr": float(state.logsnr) if state.logsnr.isfinite() else None,
                    **({"z": self._sheet(state.z), "x": self._sheet(state.x_hat)} if frame else {}),
                }
        assert last is not None
        images = to_images(self.model, last.z.float())
        recipe = {
            "Software": "markovae",
            "markovae:command": command,
            "markovae:checkpoint": self.run.checkpoint.digest,
        }
        yield {"kind": "done", "images": self._pictures(images, recipe), "command": command}

    def _conditioned(self, asked: Mapping[str, Any], n: int) -> tuple[Any, Any, str]:
        """(conditioning, guidance, the options of the command line that say the same)."""
        prompt, label = _word(asked, "prompt", ""), asked.get("label")
        weight = asked.get("guidance")
        if weight is not None:
            weight = _number(asked, "guidance", 0.0, 50.0, 1.0)
        if self.model.text_conditioner is None and prompt.strip():
            raise UserError("this model was trained without captions: leave the prompt empty")
        texts = prompt if self.model.text_conditioner is not None else None
        if label is not None and label != "none":
            label = _whole(asked, "label", 0, max(0, self.run.num_classes - 1), 0)
        if not self.run.num_classes:
            label = None
        push, where = make_guidance(self.model, weight, prompt=texts), self._where(asked)
        labels = None if texts is not None else label
        condition = make_condition(self.model, n, labels=labels, prompt=texts, where=where)
        named = self.run.class_names[label] if isinstance(label, int) and self.run.class_names else label
        words = "" if label is None else f" --class {shlex.quote(str(named))}"
        words += "" if not texts else f" --prompt {shlex.quote(texts)}"
        words += "".join(f" --where {shlex.quote(f'{name}={value}')}" for name, value in where.items())
        words += "" if weight is None else f" --guidance {weight:g}"
        return condition, push, words

    def _where(self, asked: Mapping[str, Any]) -> dict[str, str]:
        """The values of columns that are not left open."""
        where = asked.get("where", {})
        if not isinstance(where, dict) or len(where) > MAX_COLUMNS:
            raise UserError(f"where must be values of at most {MAX_COLUMNS} columns by their names")
        values = {name: _word(where, name, "").strip() for name in where}
        return {name: value for name, value in values.items() if value}

    # -- bits --------------------------------------------------------------------------------------------------

    def measure(self, asked: Mapping[str, Any]) -> Iterator[Event]:
        """The bits of one image: an estimate that narrows, nats per level, a map of where they are, its neighbours.

        Args:
            asked: image (a data URI), label, where, replicates.
        """
        pixels, note = self._picture(asked, "image")
        replicates = _whole(asked, "replicates", 2, LIMITS["replicates"], REPLICATES)
        condition = self._condition_of_one(asked)
        x = self._scaled(pixels)[None]
        totals: list[float] = []
        maps = torch.zeros(self.model.shape, dtype=torch.float64)
        drawn: list[PixelNats] = []
        bits = self.model.dims * np.log(2)
        found: Event = {}
        for replicate, estimate in zip(range(replicates), pixel_nats(self.model, x, condition=condition), strict=False):
            totals.append(float(estimate.nats.sum()))
            maps += estimate.nats.cpu()
            drawn.append(estimate)
            found = {"kind": "progress", "done": replicate + 1, "of": replicates}
            if replicate:
                mean = estimate_mean(torch.tensor(totals, dtype=torch.float64))
                low, high = mean.ci95
                found |= {"bits": mean.value / bits, "low": low / bits, "high": high / bits, "nats": mean.value}
            yield found
        logsnr = self.model.schedule.logsnr.cpu()[torch.stack([e.levels for e in drawn])].mean(0)
        nats = torch.stack([e.level_nats.cpu() for e in drawn]).mean(0)
        yield {
            **found,
            "kind": "done",
            "note": note,
            "picture": self._sheet_of(pixels[None]),
            "heat": _heat(maps / len(totals)),
            "levels": [{"logsnr": at, "nats": cost} for at, cost in zip(logsnr.tolist(), nats.tolist(), strict=True)],
            "neighbours": self._neighbours(pixels),
            "evaluations": replicates * (len(nats) + 1),
        }

    def _neighbours(self, pixels: Pixels) -> list[Event]:
        if self.pool is None:
            return []
        near = nearest(pixels[None], self.pool, self.model.pixels.bins, NEIGHBOURS)
        return [
            {"picture": self._sheet_of(np.asarray(self.pool[place])[None]), "distance": distance}
            for place, distance in zip(near.index[0].tolist(), near.distance[0].tolist(), strict=True)
        ]

    # -- edits -------------------------------------------------------------------------------------------------

    def edit(self, asked: Mapping[str, Any]) -> Iterator[Event]:
        """Inpainting, image to image, or a way between two images.

        Args:
            asked: way (inpaint, vary or interpolate), image, mask or `to` (data URIs), level, n, steps, seed, label,
                prompt, where, guidance.
        """
        way = _word(asked, "way", "vary")
        if way not in ("inpaint", "vary", "interpolate"):
            raise UserError(f"way={way[:40]!r} must be one of inpaint, vary, interpolate")
        n, steps = _whole(asked, "n", 1, LIMITS["between"], 8), _whole(asked, "steps", 2, LIMITS["steps"], 20)
        seed, level = _whole(asked, "seed", 0, LIMITS["seed"], 0), _number(asked, "level", 0.01, 1.0, 0.5)
        pixels, note = self._picture(asked, "image")
        chosen: Plan = plan(self.model, DEFAULT_SAMPLER, min(steps, self.model.num_levels))
        given, push, _ = self._conditioned({"label": "none", **asked} if self.model.null_trained else asked, n)
        condition = None if given is None else given.condition().to(self.model.device)
        editor = Editor(self.model, chosen, seed, condition, guided(self.model, condition, push))
        x = self._scaled(pixels)
        yield {"kind": "progress", "done": 0, "of": 1}
        if way == "interpolate":
            other, other_note = self._picture(asked, "to")
            note = note or other_note
            drawn = editor.interpolate(x, self._scaled(other), max(2, n), level)
        elif way == "inpaint":
            known = ~self._mask(asked)
            drawn = editor.inpaint(x.expand(n, *x.shape), torch.from_numpy(known))
        else:
            drawn = editor.vary(x.expand(n, *x.shape), level)
        images = to_images(self.model, drawn)
        recipe = {"Software": "markovae", "markovae:edit": f"{way}, level {level:g}, {steps} steps, seed {seed}"}
        yield {
            "kind": "done",
            "note": note,
            "images": self._pictures(images, recipe),
            "picture": self._sheet_of(pixels[None]),
        }

    # -- pictures ----------------------------------------------------------------------------------------------

    def _condition_of_one(self, asked: Mapping[str, Any]) -> Any:
        label = asked.get("label")
        if self.run.num_classes and label is not None and label != "none":
            label = _whole(asked, "label", 0, self.run.num_classes - 1, 0)
        else:
            label = "none" if self.run.num_classes else None
        given = make_condition(self.model, 1, labels=label, where=self._where(asked))
        return None if given is None else given.condition().to(self.model.device)

    def _picture(self, asked: Mapping[str, Any], name: str) -> tuple[Pixels, str]:
        """An uploaded image as the model's pixel values, (C, H, W), and a note where it was changed."""
        channels, height, width = self.model.shape
        image, size = _decoded(asked, name, grey=channels == 1, shape=(height, width))
        note = "" if size == (width, height) else f"{size[0]}×{size[1]} cropped and resized to {width}×{height}"
        scale = (self.model.pixels.bins - 1) / 255
        return image if scale == 1 else np.round(image * scale).astype(np.uint16), note

    def _mask(self, asked: Mapping[str, Any]) -> np.ndarray[Any, Any]:
        """(1, H, W) bool: what is painted, white, is redrawn."""
        _, height, width = self.model.shape
        image, _ = _decoded(asked, "mask", grey=True, shape=(height, width))
        mask = image > 127
        if not mask.any():
            raise UserError("nothing is painted: paint over what should be redrawn")
        return mask

    def _scaled(self, pixels: Pixels) -> torch.Tensor:
        return self.model.pixels.to_x(torch.from_numpy(pixels.astype(np.int64)), torch.float32).to(self.model.device)

    def _sheet(self, x: torch.Tensor) -> list[str]:
        return [self._sheet_of(image[None]) for image in to_images(self.model, x.float())]

    def _sheet_of(self, images: Pixels) -> str:
        return data_uri(png(viewable(images, self.model.pixels.bins)[0]))

    def _pictures(self, images: Pixels, recipe: Mapping[str, str]) -> list[str]:
        pictures = viewable(images, self.model.pixels.bins)
        return [
            data_uri(png(picture, {**recipe, "markovae:index": str(place)})) for place, picture in enumerate(pictures)
        ]


def _heat(nats: torch.Tensor) -> str:
    """A map of nats as a picture: the darkest is the least, the brightest the most of a pixel."""
    total = nats.sum(0)
    low, high = float(total.min()), float(total.max())
    share = ((total - low) / (high - low or 1.0)).numpy()
    stops = np.array([[13, 8, 50], [120, 28, 109], [225, 90, 50], [250, 240, 160]], dtype=np.float64)
    place = share * (len(stops) - 1)
    index = np.clip(place.astype(int), 0, len(stops) - 2)
    colors = stops[index] + (place - index)[..., None] * (stops[index + 1] - stops[index])
    return data_uri(png(np.round(colors).astype(np.uint8)))


def _decoded(
    asked: Mapping[str, Any], name: str, *, grey: bool, shape: tuple[int, int]
) -> tuple[Pixels, tuple[int, int]]:
    """(pixel values of 8 bits, (C, H, W), the size it had); cropped to the middle and resized as for training."""
    text = asked.get(name)
    head, comma, body = text.partition(",") if isinstance(text, str) else ("", "", "")
    if not comma or not head.startswith("data:image/") or not head.endswith(";base64"):
        raise UserError(f"{name} is missing: choose an image")
    try:
        content = base64.b64decode(body, validate=True)
    except (binascii.Error, ValueError):
        raise UserError(f"{name} is damaged: choose the image again") from None
    if len(content) > MAX_UPLOAD:
        raise UserError(f"{name} has {len(content):,} bytes: at most {MAX_UPLOAD:,} are taken")
    try:
        with open_image(content) as image:
            if image.width * image.height > MAX_PIXELS:
                raise UserError(f"{name} has more than {MAX_PIXELS // 10**6} megapixels: choose a smaller one")
            picture = flat_picture(image, grey, (0, 0, 0))
            size = picture.size
            return channels_first(fit_image(picture, shape, "crop", (0, 0, 0))), size
    except UserError:
        raise
    except Exception as error:  # a decoder may raise anything on damaged bytes
        if out_of_memory(error):
            raise
        raise UserError(f"{name} cannot be read as an image ({reason_of(error)})") from None


def _whole(asked: Mapping[str, Any], name: str, low: int, high: int, default: int) -> int:
    value = asked.get(name, default)
    if isinstance(value, float) and value.is_integer() and abs(value) <= 2**53:
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise UserError(f"{name} must be a whole number from {low} to {high}")
    return value


def _number(asked: Mapping[str, Any], name: str, low: float, high: float, default: float) -> float:
    value = asked.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise UserError(f"{name} must be a number from {low:g} to {high:g}")
    return float(value)


def _word(asked: Mapping[str, Any], name: str, default: str) -> str:
    value = asked.get(name, default)
    if not isinstance(value, str) or len(value) > LIMITS["text"]:
        raise UserError(f"{name} must be a text of at most {LIMITS['text']} characters")
    return value
