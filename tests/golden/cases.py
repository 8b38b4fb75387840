"""What markovae computes for fixed seeds, case by case, to the bit.

    python -m tests.golden.cases --write golden.json       values of this checkout
    python -m tests.golden.cases --against golden.json     the differences; exit code 1 where there are any

Two checkouts are compared on one machine: write with one, compare with the other, `--all` for both.
"""

import argparse
import json
import math
import shutil
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

import markovae as mv

from .lab import BOUND, DDPM, DIT, STEPS, Lab, bound_of, pictures
from .record import differences, machine, packed, packed_weights, written

GOLDEN = Path(__file__).with_name("golden.json")
# What may be off on another processor or with another torch: nothing (whole numbers, uniform draws, order), rounding
# of float64, what float32 and a few steps of training make of it, or anything: searches, uint8 of a sampled image
# near a half, how well this Pillow compresses.
NOWHERE, ROUNDING, NEAR, ANYTHING = 0.0, 1e-9, 1e-3, math.inf


@dataclass(frozen=True)
class Case:
    """One case.

    Args:
        name: a path.   take: its values.   tolerance: on another machine.   suite: whether `make test` runs it.
    """

    name: str
    take: Callable[[Lab], Any]
    tolerance: float = NEAR
    suite: bool = True


# -- data -------------------------------------------------------------------------------------------------------

SOURCES = ("digits", "grey.npz", "colour.npy", "idx", "folder", "texts")


def split(source: str, *changed: str) -> Callable[[Lab], Any]:
    def take(lab: Lab) -> Any:
        found = lab.splits(source, *changed)
        parts = {name: getattr(found, name) for name in ("train", "validation", "test")}
        each = {
            name: {
                "images": np.asarray(part.images[:]),
                "labels": part.labels,
                "classes": part.class_names,
                "captions": None if part.captions is None else "\n\n".join(part.captions),
                "bins": part.bins,
            }
            for name, part in parts.items()
        }
        return packed({"method": found.method, "seed": found.seed, "left_out": found.left_out, **each})

    return take


def inspected(source: str) -> Callable[[Lab], Any]:
    return lambda lab: packed(lab.json("inspect", source if source in ("digits", "faces") else lab.path(source)))


def sharded(lab: Lab) -> Path:
    folder = lab.path("shards")
    if not folder.exists():
        lab.cli("shard", lab.path("texts"), "--out", folder, "--per-shard", 10)
    return folder


def shard_record(lab: Lab) -> Any:
    record = lab.json("shard", lab.path("grey.npz"), "--out", lab.new("shards"), "--per-shard", 16)
    record["shards"] = [{key: shard[key] for key in ("part", "count")} for shard in record["shards"]]
    return packed({key: record[key] for key in ("count", "shape", "shards")})


def shard_files(lab: Lab) -> Any:
    return packed({p.name: np.frombuffer(p.read_bytes(), np.uint8) for p in sorted(sharded(lab).rglob("*.tar"))})


def from_shards(lab: Lab) -> Any:
    sharded(lab)
    return {"split": split("shards")(lab), "inspect": inspected("shards")(lab)}


def data_cases() -> Iterable[Case]:
    for source in SOURCES:
        yield Case(f"data/split/{source}", split(source), NOWHERE)
        yield Case(f"data/inspect/{source}", inspected(source), ROUNDING)
    for changed in (
        *("data.fit=pad", "data.fit=resize", "data.channels=grey", "data.background=#336699", "data.split_seed=7"),
        *("data.size=20", "data.test_fraction=0.3"),
    ):
        size = ("data.enlarge=true",) if changed.startswith("data.size") else ("data.size=8",)
        yield Case(f"data/split/folder/{changed}", split("folder", *size, changed), NOWHERE)
    yield Case("data/split/folder/data.width", split("folder", "data.size=8", "data.width=12"), NOWHERE)
    yield Case("data/shard/record", shard_record, NOWHERE)
    yield Case("data/shard/files", shard_files, ANYTHING)
    yield Case("data/shard/read", from_shards, ROUNDING)
    yield Case("data/split/faces", split("faces"), NOWHERE, suite=False)
    yield Case("data/inspect/faces", inspected("faces"), ROUNDING, suite=False)
    holes = 'data.hold_out=["hair=curly, glasses=round"]'
    yield Case("data/split/faces/hold_out", split("faces", holes), NOWHERE, suite=False)


# -- what a model is made of ------------------------------------------------------------------------------------


def schedule(*changed: str) -> Callable[[Lab], Any]:
    def take(lab: Lab) -> Any:
        model = mv.create(lab.config(*changed), (1, 8, 8))
        return packed({"logsnr": model.schedule.logsnr, "half": model.schedule.subgrid(5).logsnr})

    return take


SCHEDULES = (
    *("logsnr_linear", "linear", "cosine", "constant", "scaled_linear", "betas", "learned"),
    *("linear zero_terminal", "cosine zero_terminal", "linear betas", "ends", "sigma"),
)


def schedule_settings(name: str) -> tuple[str, ...]:
    """The settings of one of SCHEDULES."""
    kind, *more = name.split()
    if kind == "ends":
        return ("schedule.start=9", "schedule.end=-7")
    if kind == "sigma":
        return ("schedule.kind=constant", "schedule.sigma=0.3", "schedule.delta=0.05")
    own = {
        "linear": ("schedule.num_levels=24",),
        "constant": ("schedule.delta=0.01",),
        "scaled_linear": ("schedule.beta_start=0.01", "schedule.beta_end=0.4"),
        "betas": ("schedule.betas=[0.01,0.03,0.1,0.2,0.3,0.5]",),
    }.get(kind, ())
    if more == ["betas"]:
        own = ("schedule.beta_start=0.001", "schedule.beta_end=0.5")
    if more == ["zero_terminal"]:
        own = (*own, "schedule.zero_terminal=true")
    return (f"schedule.kind={kind}", *own)


def mlp(lab: Lab) -> Any:
    """The network for vectors, which no command reaches, and every kind of condition: by the names they have today."""
    from markovae.networks.mlp import MLP, MLPConfig
    from markovae.networks.network_config import DataSpec, NetworkConfig
    from markovae.networks.unet import UNet

    draws = torch.Generator().manual_seed(0)

    def drawn(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=draws)

    vector, mask = drawn(4, 5), torch.arange(3)[None] <= torch.arange(4)[:, None] % 3
    label, level = torch.tensor([0, 1, 2, 1]), torch.linspace(8, -8, 4, dtype=torch.float64)
    known = mv.Condition(label=label, vector=vector)
    every = mv.Condition(
        label=label, vector=vector, tokens=drawn(4, 3, 6), mask=mask, image=drawn(4, 2, 8, 8), keep=label != 2
    )
    found = {}
    torch.manual_seed(0)
    shape = {"width": 8, "multipliers": (1,), "embedding": 16, "patch": 1}
    data = DataSpec(1, 1, (8, 8), num_classes=3, vector_dim=5, token_dim=6, image_channels=2)
    for name, network, z, condition in (
        ("mlp", MLP(MLPConfig(6, 6, 16, 2, 3, 5)), drawn(4, 6), known),
        ("unet", UNet(NetworkConfig(blocks=1, attention=(), **shape), data), drawn(4, 1, 8, 8), every),
    ):
        for weight in network.parameters():
            weight.data += 0.1 * drawn(*weight.shape)
        found[name] = {
            "with": network(z, level, condition),
            "without": network(z, level, None),
            "weights": packed_weights(list(network.parameters())),
        }
    return packed(found)


def wrapped(lab: Lab) -> Any:
    """Somebody else's denoiser: measured, sampled."""
    from markovae.diffusion.schedule import linear

    model = mv.wrap(lambda z, t: z * (t / 24).view(-1, 1, 1, 1).sin().float(), (1, 4, 4), linear(24))
    images = (np.arange(96).reshape(6, 1, 4, 4) * 37 % 256).astype(np.uint8)
    found = mv.measure(model, images, draws=3, seed=2).to_dict()
    return {"measure": packed(found), "sample": packed(mv.sample(model, 3, steps=5, raw=True))}


def model_cases() -> Iterable[Case]:
    for name in SCHEDULES:
        yield Case(f"schedule/{name}", schedule(*schedule_settings(name)), ROUNDING)
    yield Case("networks/conditions", mlp)
    yield Case("networks/wrapped", wrapped)


# -- training ---------------------------------------------------------------------------------------------------

TARGETS = ("noise", "data", "velocity", "score", "step_noise", "mean")
TABLE = ("train.law=table", "train.law_logsnr=[-10,0,14]", "train.law_density=[0.2,1,0.1]")
# Name -> settings, of grey images with classes.
TRAININGS: dict[str, tuple[str, ...]] = {
    **{f"target/{name}": (f"target.name={name}",) for name in TARGETS},
    **{f"target/{name}/bound": (f"target.name={name}", "train.objective=bound") for name in TARGETS},
    **{f"weighting/{name}": (f"train.weighting={name}",) for name in (*TARGETS, "nats")},
    **{f"law/{name}": (f"train.law={name}",) for name in ("middle", "uniform", "normal")},
    "law/normal/moved": ("train.law=normal", "train.law_centre=2", "train.law_width=3"),
    "law/table": TABLE,
    "bound/importance": BOUND,
    "bound/table": ("train.objective=bound", *TABLE),
    "bound/normal": ("train.objective=bound", "train.law=normal"),
    "bound/softmax": ("train.objective=bound", "target.decoder=softmax"),
    **{f"schedule/{name}": schedule_settings(name) for name in SCHEDULES if name.split()[0] != "learned"},
    "schedule/linear zero_terminal": ("target.name=velocity", *schedule_settings("linear zero_terminal")),
    "schedule/learned": ("schedule.kind=learned", "train.objective=bound"),
    "schedule/learned/isotropic": ("schedule.kind=learned", "train.objective=bound", "target.reverse=isotropic"),
    "draw/raw/step_noise": ("train.draw=raw", "target.name=step_noise"),
    "draw/raw/mean": ("train.draw=raw", "target.name=mean"),
    "draw/literal/step_noise": ("train.draw=literal", "target.name=step_noise"),
    "draw/literal/mean": ("train.draw=literal", "target.name=mean"),
    **{f"reverse/{name}": (f"target.reverse={name}",) for name in ("step", "isotropic", "diagonal")},
    "reverse/full": ("target.reverse=full", "schedule.num_levels=4"),
    "reverse/learned": ("target.reverse=learned", "train.objective=bound"),
    **{f"decoder/{name}": (f"target.decoder={name}",) for name in ("ho_small", "ho_large", "softmax")},
    "pixels/centres": ("target.pixels=centres",),
    "clip": ("target.clip=1",),
    "unet/large": (
        *("network.multipliers=[1,2]", "network.attention=[0,1]", "network.head_dim=4", "network.blocks=2"),
        *("network.patch=2", "network.dropout=0.1"),
    ),
    "unet/plain": ("network.detail=false", "network.octaves=0", "network.radius=0"),
    "unet/own levels": ("network.multipliers=[1,2]",),
    "dit": DIT,
    "dit/dropout": (*DIT, "network.dit.dropout=0.2", "network.dit.patch=4", "train.checkpointing=true"),
    "ddpm": (*DDPM, "network.classes=true"),
    "ddpm/residual": (
        *DDPM,
        *("network.ddpm.residual_down=[0]", "network.ddpm.residual_up=[0]", "network.ddpm.scale_shift=true"),
        *("network.ddpm.head_dim=4", "network.ddpm.dropout=0.1", "network.ddpm.middle_attention=false"),
    ),
    "optimiser/adamw": ("train.optimiser=adamw", "train.rest_lr=0.001", "train.weight_decay=0.05"),
    "optimiser/muon": ("train.lr=0.02", "train.momentum=0.8", "train.weight_decay=0.05", "train.clip=0.1"),
    "optimiser/rates": ("train.warmup_steps=0", "train.decay_start=0.25", "train.beta1=0.8", "train.beta2=0.95"),
    "average": ("train.ema_horizon=2", "train.ema_warmup=0"),
    "precision/bfloat16": ("train.precision=bfloat16",),
    "accumulate": ("train.accumulate=3",),
    "checkpointing": ("train.checkpointing=true",),
    "dropped/none": ("train.label_dropout=0",),
    "dropped/half": ("train.label_dropout=0.5",),
    "flip": ("data.flip=true",),
    "seed": ("train.seed=11",),
    "batch": ("train.batch=40",),
}

# Of these the suite takes neighbours alone, to stay quick.
LEFT_TO_ALL = {
    *(f"target/{name}/bound" for name in ("data", "score", "step_noise", "mean")),
    *(f"weighting/{name}" for name in ("noise", "velocity", "step_noise", "mean")),
    *("law/normal", "bound/normal", "bound/table", "schedule/logsnr_linear", "schedule/ends", "schedule/linear betas"),
    *("schedule/constant", "schedule/cosine zero_terminal", "schedule/betas", "schedule/learned", "draw/raw/mean"),
    *("draw/literal/step_noise", "decoder/ho_large", "decoder/softmax", "unet/plain", "dit/dropout", "ddpm"),
    *("dropped/half", "seed", "optimiser/rates"),
}


def trained(source: str, *changed: str, steps: int = 4) -> Callable[[Lab], Any]:
    return lambda lab: lab.trained(source, *changed, steps=steps)


def rows(run: Path) -> Any:
    return packed([json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()])


def state(run: Path) -> Any:
    """What a run folder holds after it ended."""
    model = mv.load(run)
    images = np.zeros((2, *model.shape), np.uint8)
    return {"rows": rows(run), "averaged": packed_weights(list(model.parameters())), "bound": bound_of(model, images)}


def by_command(name: str) -> Callable[[Lab], Any]:
    return lambda lab: state(lab.run(name))


def from_command(data: str, *changed: str, words: tuple[str, ...] = ()) -> Callable[[Lab], Any]:
    def take(lab: Lab) -> Any:
        out = lab.new("trained")
        lab.train(out, data, *changed, words=("--no-report", *words))
        return state(out)

    return take


def resumed(lab: Lab) -> Any:
    """A run that lost its last checkpoint goes on from the one half-way, and ends as it had ended."""
    out, half = lab.new("resumed"), f"step-{STEPS // 2:08d}"
    lab.train(out, "digits", f"train.keep_every={STEPS // 2}")
    whole = packed_weights(list(mv.load(out).parameters()))
    for path in (out / "checkpoints").iterdir():
        if path.name != half:
            shutil.rmtree(path)
    lab.cli("train", "--resume", "--out", out, "--no-report")
    again = packed_weights(list(mv.load(out).parameters()))
    return {"equal": whole == again, "averaged": again}


def longer(lab: Lab) -> Any:
    """A run that ended and is given more steps."""
    out = lab.new("longer")
    lab.train(out, "digits", "train.steps=4")
    lab.cli("train", "--resume", "--out", out, "--steps", STEPS, "--no-report")
    return state(out)


def started(lab: Lab) -> Any:
    """A run from the averaged weights of another."""
    out = lab.new("started")
    lab.train(out, "digits", words=("--no-report", "--init", str(lab.run("digits"))))
    return state(out)


def together(parallel: str) -> Callable[[Lab], Any]:
    """Two processes: the run's rows and weights."""

    def take(lab: Lab) -> Any:
        from tests.together import forked

        out, folder = lab.new("together"), lab.new("ranks")
        folder.mkdir()
        ends = forked(partial(_train_of, lab, out, parallel), folder)
        assert [end.code for end in ends] == [0, 0], ends
        return state(out)

    return take


def _train_of(lab: Lab, out: Path, parallel: str) -> None:
    lab.train(out, "digits", f"train.parallel={parallel}")


def training_cases() -> Iterable[Case]:
    for name, changed in TRAININGS.items():
        yield Case(f"fit/{name}", trained("grey.npz", *changed), suite=name not in LEFT_TO_ALL)
    yield Case("fit/colour", trained("colour.npy"))
    yield Case("fit/digits", trained("digits"), suite=False)
    yield Case("fit/texts/unet", trained("texts", "condition.kind=text", "network.head_dim=4"))
    yield Case("fit/texts/dit", trained("texts", "condition.kind=text", *DIT))
    yield Case("fit/texts/dropped", trained("texts", "condition.kind=text", "train.label_dropout=0.6"), suite=False)
    yield Case("fit/longer", trained("grey.npz", *BOUND, steps=60), suite=False)
    for name in ("digits", "bound", "ddpm", "texts"):
        yield Case(f"train/{name}", by_command(name))
    yield Case("train/simple", from_command("digits", words=("--objective", "simple")))
    yield Case("train/objective bound", from_command("digits", words=("--objective", "bound")))
    yield Case("train/no classes", from_command("grey.npz", "network.classes=false"))
    yield Case("train/condition none", from_command("grey.npz", "condition.kind=none"), suite=False)
    learned = from_command("digits", "schedule.kind=learned", words=("--objective", "bound"))
    yield Case("train/objective bound/learned", learned)
    yield Case("train/resumed", resumed)
    yield Case("train/longer", longer, suite=False)
    yield Case("train/init", started)
    yield Case("train/shards", lambda lab: (sharded(lab), from_command("shards", "condition.kind=class")(lab))[1])
    yield Case("train/faces", from_command("faces", "network.patch=2", "train.batch=4"), suite=False)
    for parallel in ("ddp", "fsdp"):
        yield Case(f"train/together/{parallel}", together(parallel), suite=False)


# -- sampling ---------------------------------------------------------------------------------------------------

SAMPLERS = (
    *("dpmpp2m", "ddim", "euler", "heun", "dpmpp3m", "dpmpp2s", "dpmpp3s", "sde-dpmpp2m", "unipc2", "unipc3"),
    *("deis2", "deis3", "pc", "ancestral"),
)
SPACINGS = ("uniform", "karras", "levels")


def sampled(run: str, *words: object) -> Callable[[Lab], Any]:
    """`markovae sample`: its record and the images of samples.npz."""

    def take(lab: Lab) -> Any:
        out = lab.new("samples")
        weaker = [lab.run("weak") if word == "WEAK" else word for word in words]
        record = lab.json("sample", lab.run(run), "--out", out, *weaker)
        record.pop("autoguide")
        with np.load(out / "samples.npz") as arrays:
            return packed({"record": record, **{name: arrays[name] for name in arrays.files}})

    return take


def raw(run: str, n: int = 3, **options: Any) -> Callable[[Lab], Any]:
    """mv.sample as numbers."""
    return lambda lab: packed(mv.sample(lab.model(run), n, raw=True, **options))


def sampling_cases() -> Iterable[Case]:
    for sampler in SAMPLERS:
        yield Case(f"sample/python/{sampler}", raw("colour", sampler=sampler, steps=7))
        for spacing in SPACINGS:
            words = ("--n", 4, "--sampler", sampler, "--steps", 6, "--spacing", spacing)
            some = sampler in ("dpmpp2m", "sde-dpmpp2m")
            yield Case(f"sample/{sampler}/{spacing}", sampled("digits", *words), suite=some)
        yield Case(
            f"sample/{sampler}/20", sampled("colour", "--n", 3, "--sampler", sampler, "--steps", 11), suite=False
        )
    for name, run, words in (
        ("plain", "digits", ()),
        ("ancestral", "colour", ("--sampler", "ancestral")),
        ("class", "digits", ("--class", 3, "--seed", 5)),
        ("no class", "digits", ("--class", "none")),
        ("guidance", "digits", ("--guidance", 2.5)),
        ("guidance interval", "digits", ("--guidance", 2, "--guidance-interval", -3, 4, "--class", 7)),
        ("autoguide", "digits", ("--guidance", 1.5, "--autoguide", "WEAK")),
        ("autoguide/no class", "digits", ("--guidance", 1.5, "--autoguide", "WEAK", "--class", "none")),
        ("static", "digits", ("--threshold", "static")),
        ("dynamic", "colour", ("--threshold", "dynamic")),
        ("shard", "digits", ("--shard", "2/3", "--batch", 2)),
        ("batch", "digits", ("--batch", 3)),
        ("float64", "digits", ("--precision", "float64")),
        ("bfloat16", "digits", ("--precision", "bfloat16")),
        ("fitted", "bound", ("--sampler", "ancestral", "--steps", 6)),
        ("prompt", "texts", ("--prompt", "a red square")),
        ("prompts", "texts", ("--prompt", "a red square", "--prompt", "a dark field of grass", "--guidance", 1)),
        ("negative", "texts", ("--prompt", "a red square", "--negative", "dark", "--guidance", 3)),
        ("empty prompt", "texts", ("--prompt", "")),
        ("no prompt", "texts", ()),
    ):
        yield Case(f"sample/{name}", sampled(run, "--n", 6, *words))
    yield Case("sample/optimal", sampled("digits", "--n", 4, "--spacing", "optimal", "--steps", 5), ANYTHING)
    tuned = ("--n", 4, "--spacing", "tuned", "--steps", 5, "--sampler", "dpmpp2m")
    yield Case("sample/tuned", sampled("digits", *tuned), ANYTHING, suite=False)
    yield Case("sample/python/default", raw("digits"))
    yield Case("sample/python/labels", raw("digits", labels=[1, 2, 3], guidance=2.0, seed=4))
    yield Case("sample/python/prompt", raw("texts", prompt="a red square", negative="dark", guidance=2.0))
    yield Case("sample/python/prompt default", raw("texts", prompt="a red square"))
    yield Case("sample/python/digits", lambda lab: packed(mv.sample(lab.model("colour"), 5, batch=2)))


# -- edits ------------------------------------------------------------------------------------------------------


def edited(*words: str) -> Callable[[Lab], Any]:
    """`markovae edit` of a picture; a word that names a file of the data is that file."""

    def take(lab: Lab) -> Any:
        out = lab.new("edit")
        found = [lab.path(word) if word.endswith(".png") else word for word in words]
        lab.cli("edit", lab.run("colour"), lab.path("picture-0.png"), "--out", out, "--steps", 5, *found)
        return pictures(out)

    return take


def edit_cases() -> Iterable[Case]:
    mask = ("--mask", "mask.png")
    for name, words in (
        ("moments", (*mask, "--n", "2")),
        ("moments/quick", (*mask, "--n", "2", "--quick", "--iterations", "3")),
        ("moments/ddim", (*mask, "--n", "2", "--sampler", "ddim", "--seed", "3")),
        ("repaint", (*mask, "--n", "2", "--method", "repaint", "--resampling", "2")),
        ("sr2", ("--degrade", "sr2", "--n", "2")),
        ("sr4", ("--degrade", "sr4", "--n", "2", "--quick")),
        ("blur", ("--degrade", "blur", "--n", "2")),
        ("grey", ("--degrade", "grey", "--n", "2")),
        ("from level", ("--from-level", "0.6")),
        ("to", ("--to", "picture-1.png", "--n", "3", "--level", "0.4")),
        ("round trip", ("--round-trip",)),
        ("float64", (*mask, "--n", "2", "--precision", "float64")),
    ):
        yield Case(f"edit/{name}", edited(*words))

    def prompted(lab: Lab) -> Any:
        out, picture = lab.new("edit"), lab.path("picture-0.png")
        words = ("--from-level", 0.5, "--prompt", "a red square", "--steps", 5)
        lab.cli("edit", lab.run("texts"), picture, "--out", out, *words)
        return pictures(out)

    yield Case("edit/prompt", prompted)


# -- measuring --------------------------------------------------------------------------------------------------


def measured(run: str, *words: object) -> Callable[[Lab], Any]:
    """`markovae measure --json`; RUNS in capitals are runs, and other.npy is a file."""

    def take(lab: Lab) -> Any:
        places = {"BOUND": lambda: lab.run("bound"), "WEAK": lambda: lab.run("weak")}
        found = [places[word]() if word in places else word for word in words]
        found = [lab.path(word) if str(word).endswith(".npy") else word for word in found]
        return packed(lab.json("measure", lab.run(run), *found))

    return take


def rows_of_images(lab: Lab) -> Any:
    path = lab.new("costs")
    lab.cli("measure", lab.run("digits"), "--limit", 5, "--draws", 3, "--csv", path)
    head, *rows = (line.split(",") for line in path.read_text().splitlines())
    return packed({name: [float(row[place]) for row in rows] for place, name in enumerate(head)})


def measured_in_python(run: str, source: str, **options: Any) -> Callable[[Lab], Any]:
    def take(lab: Lab) -> Any:
        data, model = lab.splits(source), lab.model(run)
        fitted = {"fit": data.validation.images[:8]} if options.get("fitted") else {}
        asked = {name: value for name, value in options.items() if name not in ("fitted", "classes")}
        if options.get("classes"):
            asked["labels"] = data.test.labels[:6]
            fitted |= {"fit_labels": data.validation.labels[:8]} if fitted else {}
        return packed(mv.measure(model, data.test.images[:6], **asked, **fitted).to_dict())

    return take


def full_bound(run: str, source: str) -> Callable[[Lab], Any]:
    return lambda lab: bound_of(lab.model(run), lab.splits(source).test.images[:4])


def measuring_cases() -> Iterable[Case]:
    slow = ("ode", "ode/exact", "full", "levels/all", "other/part", "bfloat16", "optimal", "validation", "default")
    some, optimal = ("--limit", 8), ("--levels", 5, "--grid", "optimal")
    for name, run, words, tolerance in (
        ("stratified", "digits", (*some, "--draws", 4), NEAR),
        ("default", "digits", ("--limit", 20), NEAR),
        ("all", "digits", (*some, "--draws", "all"), NEAR),
        ("full", "digits", (*some, "--estimator", "full"), NEAR),
        ("importance", "digits", (*some, "--estimator", "importance", "--draws", 4, "--fit-images", 12), NEAR),
        ("replicates", "digits", (*some, "--draws", 3, "--replicates", 3), NEAR),
        (
            "importance/replicates",
            "bound",
            ("--limit", 4, "--estimator", "importance", "--replicates", 2, "--fit-images", 12),
            NEAR,
        ),
        ("continuous", "digits", (*some, "--draws", 3, "--continuous"), NEAR),
        ("levels", "digits", (*some, "--levels", 5), NEAR),
        ("levels/all", "bound", (*some, "--levels", 5, "--draws", "all"), NEAR),
        ("optimal", "digits", (*some, *optimal, "--fit-images", 12), ANYTHING),
        ("optimal/own", "bound", (*some, *optimal, "--fit-images", 12), ANYTHING),
        ("isotropic", "digits", (*some, "--variance", "isotropic", "--fit-images", 12), NEAR),
        ("diagonal", "digits", (*some, "--variance", "diagonal", "--fit-images", 12), NEAR),
        ("diagonal/optimal", "digits", (*some, "--variance", "diagonal", *optimal, "--fit-images", 9), ANYTHING),
        ("ode", "digits", ("--limit", 2, "--draws", 2, "--ode"), ANYTHING),
        ("ode/steps", "digits", ("--limit", 2, "--draws", 2, "--ode", "--ode-steps", 6, "--probes", 2), NEAR),
        ("ode/exact", "digits", ("--limit", 1, "--draws", 2, "--ode", "--ode-steps", 2, "--probes", "exact"), NEAR),
        ("ode/normal", "colour", ("--limit", 2, "--ode", "--ode-steps", 3, "--dequantize", "normal"), NEAR),
        ("fitted", "bound", (*some, "--draws", 4), NEAR),
        ("against", "digits", (*some, "--draws", 4, "--against", "BOUND"), NEAR),
        (
            "against/importance",
            "digits",
            ("--limit", 4, "--estimator", "importance", "--fit-images", 12, "--against", "WEAK"),
            NEAR,
        ),
        ("validation", "colour", ("--split", "validation", "--draws", 4), NEAR),
        ("train", "colour", ("--split", "train", "--limit", 6, "--draws", 4), NEAR),
        ("other", "colour", ("other.npy", "--split", "all", "--limit", 9, "--draws", 4), NEAR),
        ("other/fit", "colour", ("other.npy", "--split", "all", "--estimator", "importance", "--limit", 9), NEAR),
        ("other/part", "colour", ("other.npy", "--draws", 4), NEAR),
        ("seed", "digits", (*some, "--seed", 9, "--batch", 5), NEAR),
        ("float64", "digits", (*some, "--draws", 4, "--precision", "float64"), NEAR),
        ("bfloat16", "digits", (*some, "--draws", 4, "--precision", "bfloat16"), NEAR),
        ("ddpm", "ddpm", ("--draws", 4), NEAR),
        ("texts", "texts", ("--draws", 4), NEAR),
        ("captions", "texts", ("--captions", "--limit", 5, "--candidates", 3, "--draws", 2), NEAR),
    ):
        yield Case(f"measure/{name}", measured(run, *words), tolerance, name not in slow)
    yield Case("measure/csv", rows_of_images)
    for name, run, source, options in (
        ("default", "digits", "digits", {}),
        ("classes", "digits", "digits", {"classes": True, "draws": 3}),
        ("all", "colour", "colour.npy", {"draws": "all"}),
        ("grid", "colour", "colour.npy", {"levels": [1, 3, 7, 12], "draws": 2}),
        ("importance", "digits", "digits", {"estimator": "importance", "fitted": True, "classes": True}),
        ("isotropic", "colour", "colour.npy", {"variance": "isotropic", "fitted": True}),
    ):
        yield Case(f"measure/python/{name}", measured_in_python(run, source, **options))
    yield Case("bound/digits", full_bound("digits", "digits"))
    yield Case("bound/fitted", full_bound("bound", "digits"))
    yield Case("bound/texts", full_bound("texts", "texts"))


# -- reports, quality, other formats, the derivation ------------------------------------------------------------


def reported(lab: Lab, run: str = "digits") -> dict[str, Any]:
    """report.json of a run, written once: a run that has ended is only reported on."""
    path = lab.run(run) / "report.json"
    if not path.exists():
        lab.cli("train", "--resume", "--out", lab.run(run))
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def report_part(run: str, name: str) -> Callable[[Lab], Any]:
    return lambda lab: packed({name: reported(lab, run).get(name)})


def quality(run: str, *words: object) -> Callable[[Lab], Any]:
    return lambda lab: packed(lab.json("quality", lab.run(run), *words))


def compared(lab: Lab) -> Any:
    """Two records of one run and their difference."""
    path = lab.new("record")
    words = ("quality", lab.run("colour"), "--n", 16, "--steps", 4)
    path.write_text(lab.cli(*words, "--sampler", "ddim", "--json"))
    return packed(lab.json(*words, "--compare", path, "--varying", "sampler,spacing"))


def exported(lab: Lab) -> Any:
    """Out to diffusers and in again: their tensors, their settings, and our model of them."""
    out, back = lab.new("exported"), lab.new("imported")
    lab.cli("export", lab.run("ddpm"), "--to", "diffusers", out)
    lab.cli("import", out, "--out", back)
    theirs = load_file(out / "unet" / "diffusion_pytorch_model.safetensors")
    said = [json.loads(p.read_text()) for p in (out / "unet/config.json", out / "scheduler/scheduler_config.json")]
    ours, again = (packed_weights(list(mv.load(run).parameters())) for run in (lab.run("ddpm"), back))
    images = lab.splits("colour.npy").test.images[:3]
    return {
        "theirs": {name: packed(theirs[name]) for name in sorted(theirs)},
        "said": packed(said),
        "equal": ours == again,
        "bound": bound_of(mv.load(back), images),
        "sample": packed(mv.sample(mv.load(back), 2, steps=4, sampler="ancestral", raw=True)),
    }


def verified(lab: Lab) -> Any:
    """Expected and measured side of every equation."""
    found = json.loads(lab.cli("verify", "--json"))
    return packed([{key: row[key] for key in ("expected", "measured", "tolerance", "pass")} for row in found["rows"]])


REPORT = ("measurement", "data", "samples", "channels", "curves")
REPORT_HERE = ("codecs", "neighbours", "extremes", "prompts", "captions")


def other_cases() -> Iterable[Case]:
    for run in ("digits", "texts"):
        for name in (*REPORT, *REPORT_HERE):
            tolerance = NEAR if name in REPORT else ANYTHING
            yield Case(f"report/{run}/{name}", report_part(run, name), tolerance, suite=run == "digits")
    yield Case("quality/colour", quality("colour", "--n", 24, "--steps", 4), ANYTHING)
    yield Case("quality/digits", quality("digits", "--n", 24, "--steps", 4, "--guidance", 2), ANYTHING, suite=False)
    yield Case("quality/compared", compared, ANYTHING)
    yield Case("export", exported)
    yield Case("verify", verified, NEAR, suite=False)


def cases(everything: bool = False) -> list[Case]:
    """The cases in their order; those of the suite alone, or all."""
    each = (data_cases, model_cases, training_cases, sampling_cases, edit_cases, measuring_cases, other_cases)
    found = [case for make in each for case in make() if everything or case.suite]
    assert len({case.name for case in found}) == len(found), "two cases have one name"
    return found


def differences_of(case: Case, golden: Any, found: Any, same_machine: bool) -> list[str]:
    """How a case differs from its golden values, where it may not."""
    tolerance = NOWHERE if same_machine else case.tolerance
    return [] if tolerance == ANYTHING else list(differences(golden, found, tolerance, case.name))


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m tests.golden.cases", description=__doc__)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--write", metavar="FILE", type=Path, help="write the values of this checkout")
    what.add_argument("--against", metavar="FILE", type=Path, help="compare this checkout with written values")
    parser.add_argument("--all", action="store_true", help="also the cases that the suite leaves out: about 5 minutes")
    parser.add_argument("--only", metavar="PART", default="", help="cases whose name holds this")
    options = parser.parse_args()
    golden = None if options.against is None else json.loads(options.against.read_text())
    found: dict[str, Any] = {}
    differing = 0
    with Lab() as lab:
        for case in cases(options.all):
            if options.only not in case.name:
                continue
            began = time.process_time()
            try:
                found[case.name] = json.loads(json.dumps(case.take(lab)))
            except Exception as error:
                differing += 1
                print(f"{case.name}: {type(error).__name__}: {error}", file=sys.stderr)
                continue
            told = ["no golden values"]
            if golden is None:
                told = []
            elif case.name in golden["cases"]:
                told = differences_of(
                    case, golden["cases"][case.name], found[case.name], golden["machine"] == machine()
                )
            differing += bool(told)
            seconds = time.process_time() - began
            print("\n          ".join([f"{seconds:6.2f} s  {case.name}", *told[:5]]), flush=True)
    if options.write is not None:
        options.write.write_text(written({"machine": machine(), "cases": found}))
    print(f"{len(found)} cases, {differing} that failed or differ")
    return int(differing > 0)


if __name__ == "__main__":
    sys.exit(main())
