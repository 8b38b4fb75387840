"""Cascades from a configuration: their stages, the loss that trains all of them, and what is refused."""

import json
import math
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

import markovae as mv
from markovae.build import create, detail_scales, with_stages
from markovae.checkpoints.reading import load_run
from markovae.config import Config
from markovae.data.images import ImageData
from markovae.diffusion import haar
from markovae.diffusion.cascade import Cascade
from markovae.diffusion.detail_network import DetailNetwork
from markovae.diffusion.fitted_variance import fitted_tensors, load_fitted
from markovae.errors import UserError
from markovae.likelihood.fitting import fit_stages
from markovae.networks.conditioning import Condition
from markovae.randomness import generator
from markovae.training.cascade_loss import CascadeLoss
from markovae.training.trainer import Training

SMALL = ["network.width=8", "network.embedding=16", "network.blocks=1", "schedule.num_levels=12", "network.radius=0"]


def config(*settings: str) -> Config:
    return Config().with_settings([*SMALL, "cascade.stages=2", *settings])


def images(n: int = 16, side: int = 16, channels: int = 3) -> np.ndarray:
    source = np.random.default_rng(0)
    coarse = source.integers(40, 200, (n, channels, side // 4, side // 4)).repeat(4, 2).repeat(4, 3)
    return np.clip(coarse + source.integers(-20, 20, (n, channels, side, side)), 0, 255).astype(np.uint8)


def cascade(*settings: str, side: int = 16, **options) -> Cascade:
    made = create(config(*settings), (3, side, side), **options)
    assert isinstance(made, Cascade)
    for weight in made.parameters():  # fresh heads are zero, which would hide what the loss sees
        if not bool(weight.any()):
            weight.data.copy_(0.1 * torch.randn(weight.shape, generator=generator(0, "w", *weight.shape)))
    return made


@pytest.mark.parametrize(
    ("size", "stages"),
    [
        ((32, 32), 1),
        ((48, 48), 1),
        ((64, 64), 2),
        ((96, 64), 2),
        ((128, 128), 3),
        ((256, 256), 4),
        ((66, 66), 2),
        ((65, 65), 1),
    ],
)
def test_a_run_picks_its_stages_by_the_size(size, stages):
    data = ImageData(np.zeros((2, 3, *size), np.uint8))
    found = with_stages(Config(), data)
    assert (found.cascade.stages or 1) == stages
    assert found == Config() or len(found.cascade.scales) == stages - 1
    assert with_stages(Config().with_settings(["network.kind=dit"]), data).cascade.stages is None


def test_scales_are_those_of_the_details():
    some = images(64)
    found = with_stages(config(), ImageData(some)).cascade.scales
    x = torch.from_numpy(some).double() / 127.5 - 1
    assert found == pytest.approx((float(haar.split(x)[1].square().mean().sqrt()),), rel=5e-3)
    assert detail_scales(some, 256, 2)[1] == found[0]


def test_stages_meet_at_one_log_snr_of_the_pixels():
    model = cascade("cascade.stages=3", "cascade.scales=[0.3, 0.1]", side=32)
    assert [stage.shape for stage in model.stages] == [(3, 8, 8), (9, 8, 8), (9, 16, 16)]
    starts = [float(stage.schedule.logsnr[1]) for stage in model.stages]
    first = float(model.first_logsnr)
    assert starts == pytest.approx([first + 4 * math.log(2), first + 2 * math.log(0.6), first + 2 * math.log(0.1)])
    assert model.num_levels == 34
    assert [stage.network.inner.data.frequency for stage in list(model.stages)[1:]] == [510.0, 127.5]


def test_a_detail_network_sees_pixels_and_gives_details():
    model = cascade()
    network, seen = model.stage(1).network, []
    assert isinstance(network, DetailNetwork)
    network.inner.register_forward_pre_hook(lambda _, inputs: seen.append(inputs))
    x = torch.rand(2, 3, 16, 16, generator=generator(0, "x"))
    band, coarse = model.stage_data(x, 1)
    noise = torch.randn(x.shape, generator=generator(0, "noise"))
    logsnr = torch.tensor([3.0, -2.0], dtype=torch.float64)
    given = model.refining(Condition(), coarse, torch.tensor(math.inf), torch.zeros_like(coarse))
    given.coarse[:, -1] = 1.3
    z = (
        torch.sigmoid(logsnr).sqrt()[:, None, None, None] * band
        + torch.sigmoid(-logsnr).sqrt()[:, None, None, None] * haar.split(noise)[1]
    ).float()
    out = network(z, logsnr, given)
    pixels = logsnr - 2 * math.log(network.scale)
    a, s = (torch.sigmoid(v).sqrt()[:, None, None, None].float() for v in (pixels, -pixels))
    projected = haar.merge(torch.zeros_like(coarse), haar.split(noise)[1])
    latent, at, condition = seen[0]
    torch.testing.assert_close(latent[:, :3], a * x + s * projected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(latent[:, 3:6], coarse.repeat_interleave(2, 2).repeat_interleave(2, 3))
    assert torch.equal(at, pixels)
    assert condition.coarse is None
    inner = network.inner(*seen[0])
    torch.testing.assert_close(out, haar.split(inner)[1])
    with pytest.raises(ValueError, match="needs the coarse image"):
        network(z, logsnr)
    with pytest.raises(ValueError, match="refines no coarse image"):
        model.base.network(torch.zeros(2, 3, 8, 8), logsnr, given)


def test_the_loss_is_the_sum_of_the_stages_and_parts_add_up():
    model = cascade()
    training = Training(model, ImageData(images()), config("train.batch=8").train)
    assert isinstance(training.loss, CascadeLoss)
    batch = training.batches.at(0)

    def gradients(edges):
        model.zero_grad()
        parts = [training.loss.backward(None, batch.part(*e), 8, torch.float32) for e in edges]
        return torch.cat([p.loss for p in parts]), {name: w.grad.clone() for name, w in model.named_parameters()}

    whole, one = gradients([(0, 8)])
    parts, two = gradients([(0, 3), (3, 8)])
    torch.testing.assert_close(whole, parts)
    for name, gradient in one.items():
        torch.testing.assert_close(gradient, two[name], rtol=1e-3, atol=1e-5, msg=name)
        assert bool(gradient.isfinite().all())
    assert {name.split(".")[1] for name, gradient in one.items() if bool(gradient.any())} == {"0", "1"}


def test_details_are_trained_on_crops_of_twice_the_base():
    model = cascade("cascade.stages=3", side=32)  # a base of 8: crops of 16 of 32 pixels
    assert CascadeLoss(model, config().train)._crops == [(8, 8, 1), (16, 16, 8), (16, 16, 8)]
    bound = config("train.objective=bound").train
    assert CascadeLoss(model, bound)._crops == [(8, 8, 1), (16, 16, 2), (16, 16, 2)]
    data, loss = ImageData(images(32, 32)), CascadeLoss(model, bound)
    batch = Training(model, data, config("train.batch=32").train).batches.at(0)
    rows, part = torch.arange(0, 32, 2), loss.part(batch, 2, 32)
    assert torch.equal(loss.part(batch, 0, 32).x, model.means(batch.x, 0))
    assert part.x.shape == (16, 9, 8, 8)
    full, coarse = model.stage_data(batch.x[rows], 2)
    planes = part.condition.coarse
    exact = planes[:, -1, 0, 0] * 10 > float(model.coarse_logsnr(2)) - 1e-3
    assert 8 < int(exact.sum()) < 16
    for i in range(16):  # details and coarse image are cut at one place
        places = [
            (y, x)
            for y in range(9)
            for x in range(9)
            if torch.allclose(full[i, :, y : y + 8, x : x + 8], part.x[i], atol=1e-6)
        ]
        assert len(places) == 1
        y, x = places[0]
        off = float((planes[i, :3] - coarse[i, :, y : y + 8, x : x + 8]).std())
        assert off == pytest.approx(math.exp(-5 * float(planes[i, -1, 0, 0])), rel=0.4)


BOUND = ("train.objective=bound", "train.level_sampling=importance")


def test_each_stages_loss_is_its_part_of_the_bound(monkeypatch):
    """Level by level, with the noise of the batch: p_ℓ times the loss is E6's term of the level, in nats."""
    made = ("cascade.stages=3", "cascade.scales=[0.3, 0.1]")
    model = cascade(*made, side=32).double()
    model.precision = torch.float64
    training = Training(model, ImageData(images(16, 32)), config("train.batch=8", *made, *BOUND).train)
    loss, batch = training.loss, training.batches.at(0).to(torch.device("cpu"), torch.float64)
    assert isinstance(loss, CascadeLoss)
    loss._crops = [(8, 8, 1), (16, 16, 4), (32, 32, 4)]  # of the finest whole images, which have a reconstruction
    quarter = torch.tensor([0, 4])

    def forced(levels, at, level, quantile, b, size):
        return level if b == at else levels(quantile, b, size)

    for b, rows in ((0, torch.arange(8)), (1, quarter), (2, quarter)):
        objective, stage = loss.stages[b].objective, model.stage(b)
        for own in (1, 2, 7, 12):
            level = torch.full((len(rows),), own)
            monkeypatch.setattr(loss, "_levels", partial(forced, loss._levels, b, level))
            drawn = batch if b else replace(batch, draw=replace(batch.draw, level=level))
            part = loss.part(drawn, b, 8)
            found = loss.backward(None, drawn, 8, torch.float64).loss[rows, b] * len(rows) / 8
            monkeypatch.undo()
            nats = found * objective.probability[own - 1] * objective.nats * math.prod(part.x.shape[1:])
            z = stage.marginal(part.x, own).mean
            z = z + torch.sigmoid(-stage.schedule.logsnr[own]).sqrt() * part.draw.noise
            if own > 1:
                expected = stage.posterior(part.x, z, own).kl(stage.prior_step(z, own, part.condition))
            elif b < 2:
                expected = torch.zeros(len(rows), dtype=torch.float64)
            else:
                z = model.marginal(batch.x[rows], 1).mean
                z = z + torch.sigmoid(-model.first_logsnr).sqrt() * batch.draw.noise[rows]
                expected = -model.prior_step(z, 1, batch.condition).log_prob(batch.x[rows])
            torch.testing.assert_close(nats, expected, rtol=1e-6, atol=1e-9, msg=f"stage {b}, level {own}")


def test_a_stage_without_details_learns_its_levels_as_a_model_of_one_does():
    made = config("cascade.stages=1", "train.batch=8", *BOUND)
    alone, inner = (create(made, (3, 16, 16)) for _ in range(2))
    runs = [Training(m, ImageData(images()), made.train) for m in (alone, Cascade([inner], [], inner.decoder))]
    steps = [[run.advance() for _ in range(3)] for run in runs]
    assert [step.loss for step in steps[0]] == [step.loss for step in steps[1]]
    assert all(torch.equal(a, b) for a, b in zip(alone.parameters(), inner.parameters(), strict=True))
    assert runs[1].loss.capture() == {"stages": [runs[0].loss.capture()]}
    assert torch.equal(runs[0].objective.probability, runs[1].objective.probability)


def test_every_stage_draws_its_levels_by_what_they_cost():
    made = ("cascade.stages=3", "cascade.scales=[0.3, 0.1]", "train.batch=16", "train.seed=1")
    training = Training(cascade(*made, side=32), ImageData(images(32, 32)), config(*made, *BOUND).train)
    loss = training.loss
    before = [stage.objective.probability.clone() for stage in loss.stages]
    weights = [stage.objective.probability * stage.objective.weight for stage in loss.stages]
    indices_of = training.batches.indices_of(0)
    losses = torch.zeros(16, 3)
    rows = loss._rows(indices_of.quantile, 2, 16)
    losses[rows, 2] = 50.0
    free, level = (loss._levels(indices_of.quantile, b, 16) for b in (1, 2))
    loss.note(indices_of, losses)
    after = [stage.objective for stage in loss.stages]
    assert bool((after[2].probability[level - 1] > before[2][level - 1]).all())
    assert bool((after[1].probability[free - 1] < before[1][free - 1]).all())
    for objective, product in zip(after, weights, strict=True):  # what is minimized does not change
        torch.testing.assert_close(objective.probability * objective.weight, product)
    record = json.loads(json.dumps(training.loss.capture()))
    other = Training(cascade(*made, side=32), ImageData(images(32, 32)), config(*made, *BOUND).train)
    other.loss.restore(record)
    for one, two in zip(after, other.loss.stages, strict=True):
        assert torch.equal(one.probability, two.objective.probability)
    for wrong in (None, {"stages": record["stages"][:2]}, record["stages"][0]):
        with pytest.raises(ValueError, match="no distributions of levels for 3 stages"):
            other.loss.restore(wrong)


def test_a_run_trains_resumes_and_loads(tmp_path):
    few = [
        "train.batch=8",
        "train.fit_images=16",
        "train.eval_images=4",
        "train.eval_draws=1",
        "train.precision=float32",
        *BOUND,
    ]
    made = config(*few, "train.steps=4", "train.grids=0", "target.reverse=isotropic", "train.evaluations=1")
    np.savez(tmp_path / "x.npz", images=images(48).transpose(0, 2, 3, 1), labels=np.arange(48) % 3)
    whole = mv.train(tmp_path / "x.npz", tmp_path / "whole", made, progress=False, device="cpu")
    shorter = made.with_settings(["train.steps=2"])
    mv.train(tmp_path / "x.npz", tmp_path / "parts", shorter, progress=False, device="cpu")
    parts = mv.resume(tmp_path / "parts", steps=4, progress=False, device="cpu")
    first, second = ({n: w.clone() for n, w in run.model.named_parameters()} for run in (whole, parts))
    assert isinstance(whole.model, Cascade)
    assert whole.num_classes == 3
    assert first.keys() == second.keys()
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    again = load_run(tmp_path / "whole", device="cpu").model
    for name, value in again.named_parameters():
        assert torch.equal(value, first[name])
    fitted = fitted_tensors(again)
    assert {name.split(".")[1] for name in fitted} == {"0", "1"}
    config_ = load_run(tmp_path / "whole").checkpoint.config.cascade
    assert config_.stages == 2
    assert config_.scales == again.scales


def test_variances_of_all_stages_are_fitted_and_kept():
    model = cascade("target.reverse=isotropic")
    fit_stages(model, torch.from_numpy(images(32)))
    tables = fitted_tensors(model)
    assert len(tables) == 4
    other = cascade("target.reverse=isotropic")
    assert fitted_tensors(other) == {}
    load_fitted(other, tables)
    assert all(torch.equal(value, tables[name]) for name, value in fitted_tensors(other).items())
    load_fitted(other, {})
    assert fitted_tensors(other) == {}


@pytest.mark.parametrize(
    ("settings", "size", "message"),
    [
        (["network.kind=dit", "network.width=64"], 16, None),
        (["schedule.kind=cosine"], 16, "a cascade takes schedule.kind=logsnr_linear, not cosine"),
        (["target.reverse=full"], 16, "target.reverse=full is for models of one stage"),
        (["target.decoder=learned", "target.reverse=learned"], 16, "target.decoder=learned is for models of one stage"),
        (["cascade.stages=4"], 20, "20x20 pixels cannot be halved 3 times.* nearest sizes that can are 16x16 or 24x24"),
        (["cascade.stages=7"], 16, "cascade.stages=7 must lie in 1…6"),
        (["cascade.scales=[0.1, 0.2]"], 16, "cascade.scales are 2 and cascade.stages=2"),
        (["cascade.scales=[1e-6]"], 16, "details below the noise of level 1"),
    ],
)
def test_what_a_cascade_cannot_be_is_said_in_a_sentence(settings, size, message):
    with pytest.raises(UserError, match=message):
        create(config(*settings), (3, size, size))


@pytest.mark.parametrize("setting", ["train.draw=raw", "train.compile=true", "train.parallel=fsdp"])
def test_what_trains_one_stage_alone_is_refused(setting):
    settings = [setting]
    if "raw" in setting:
        settings.append("target.name=step_noise")
    with pytest.raises(UserError, match="is for models of one stage"):
        Training(cascade(), ImageData(images()), config("train.batch=8", *settings).train)


def test_another_network_is_refused():
    with pytest.raises(UserError, match=r"a cascade takes network\.kind=unet, not dit"):
        create(Config().with_settings(["cascade.stages=2", "network.kind=dit"]), (3, 16, 16))


def test_a_configuration_without_stages_is_one_stage_of_any_size():
    model = create(Config().with_settings(SMALL), (3, 64, 64))
    assert not isinstance(model, Cascade)


def test_a_cascade_is_saved_and_loaded(tmp_path):
    model = cascade("cascade.stages=3", "cascade.scales=[0.31, 0.12]", "cascade.details_width=16", side=32)
    mv.save(model, tmp_path / "saved")
    again = mv.load(tmp_path / "saved")
    assert isinstance(again, Cascade)
    assert again.scales == model.scales
    torch.testing.assert_close(again.level_logsnr, model.level_logsnr, rtol=0, atol=1e-9)
    assert all(torch.equal(w, v) for w, v in zip(model.parameters(), again.parameters(), strict=True))
    with pytest.raises(UserError, match="on a sub-grid"):
        mv.save(model.on_levels(11), tmp_path / "short")


def test_weights_of_another_cascade_are_refused(tmp_path):
    np.savez(tmp_path / "x.npz", images=images(48).transpose(0, 2, 3, 1))
    mv.save(cascade("cascade.scales=[0.31]"), tmp_path / "two")
    mv.save(create(config("cascade.stages=1"), (3, 16, 16)), tmp_path / "one")
    quick = ["train.batch=8", "train.steps=1", "train.evaluations=0", "train.grids=0", "train.precision=float32"]

    def begin(init, *settings):
        made = config(*quick, *settings)
        return mv.train(tmp_path / "x.npz", tmp_path / "out", made, init=tmp_path / init, progress=False, device="cpu")

    with pytest.raises(UserError, match="does not fit this run"):
        begin("one")
    with pytest.raises(UserError, match=r"cascade.scales=\(0.31,\) and this run \(0.2,\)"):
        begin("two", "cascade.scales=[0.2]")
    assert begin("two").model.scales == (0.31,)


def test_fit_trains_every_stage_and_leaves_the_average():
    made = config("train.batch=8", "train.precision=float32", "target.reverse=isotropic", "train.fit_images=16")
    data = ImageData(images(16))
    model = create(made, data)
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    steps = list(mv.fit(model, data, made.train, steps=2))
    assert [step.index for step in steps] == [1, 2]
    assert all(math.isfinite(step.loss) and math.isfinite(step.nats) for step in steps)
    moved = {name.split(".")[1] for name, weight in model.named_parameters() if not torch.equal(weight, before[name])}
    assert moved == {"0", "1"}
    assert fitted_tensors(model)
    with pytest.raises(UserError, match="of your own is for models of one stage"):
        mv.fit(model, data, made.train, steps=2, loss=lambda *_: None)
