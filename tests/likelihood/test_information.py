"""What a condition is worth, where it is known: three clouds on a line, and their number as the condition."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from markovae.diffusion.bound import estimate_mean
from markovae.diffusion.decoder import DensityDecoder
from markovae.diffusion.model import Diffusion
from markovae.diffusion.reverse import PosteriorVariance
from markovae.diffusion.schedule import LogSNRLinear
from markovae.diffusion.target import DATA
from markovae.errors import UserError
from markovae.likelihood.caption_information import (
    CaptionInformation,
    block_partners,
    information_bound,
    lower_bound_in_words,
    shared_nats,
)
from markovae.likelihood.estimators import Estimator, evaluate_batches, summarize
from markovae.networks.conditioning import Condition
from markovae.theory.mixture import Mixture

WEIGHTS, MEANS, STD = [0.5, 0.3, 0.2], [-1.0, 0.0, 0.9], 0.35
TRUTH = Mixture.line(WEIGHTS, MEANS, [STD] * 3)


class Clouds(nn.Module):
    """E[x|z, c], and E[x|z] without a condition; wrong by `shift` of the conditional means and by `factor`."""

    num_classes = 3

    def __init__(self, shift: float = 0.0, factor: float = 1.0) -> None:
        super().__init__()
        self.parts = [Mixture.line([1.0], [mean + shift * (-1) ** i], [STD]) for i, mean in enumerate(MEANS)]
        self.factor = factor

    def forward(self, z: Tensor, logsnr: Tensor, condition: Condition | None = None) -> Tensor:
        if condition is None or condition.label is None:
            return self.factor * TRUTH.denoise(z, logsnr)
        each = torch.stack([part.denoise(z, logsnr) for part in self.parts])
        return each[condition.label, torch.arange(len(z))]


def model(levels: int = 64, **wrong: float) -> Diffusion:
    grid = LogSNRLinear(levels, 9.0, -7.0)
    made = Diffusion(Clouds(**wrong), grid, DATA, PosteriorVariance(), DensityDecoder(), (1,))
    made.precision = torch.float64
    return made


def drawn(n: int) -> tuple[Tensor, Tensor]:
    """n points and their clouds."""
    generator = torch.Generator().manual_seed(5)
    label = torch.multinomial(torch.tensor(WEIGHTS, dtype=torch.float64), n, replacement=True, generator=generator)
    noise = torch.randn(n, 1, dtype=torch.float64, generator=generator)
    return torch.tensor(MEANS, dtype=torch.float64)[label][:, None] + STD * noise, label


def information() -> float:
    """I(X; C) = H(X) − H(X|C), the first by quadrature, the second in closed form."""
    return TRUTH.entropy() - 0.5 * math.log(2 * math.pi * math.e * STD**2)


def block_nats(made: Diffusion, x: Tensor, label: Tensor, k: int) -> Tensor:
    partner = block_partners(len(x), k)
    rows = torch.arange(partner.shape[1])
    whole = Estimator(None)
    given = (Condition(label=label[mates]) for mates in partner)
    return torch.stack([shared_nats(made, x, each, rows, estimator=whole, batch=4096) for each in given])


def test_exact_denoisers_cover_the_truth():
    x, label = drawn(600)
    made = model(80)
    whole = {"estimator": Estimator(None), "batch": 8192}
    without, given = (shared_nats(made, x, c, **whole) for c in (None, Condition(label=label)))
    difference = estimate_mean(without - given)
    assert difference.ci95[0] < information() < difference.ci95[1]
    assert difference.stderr < 0.04


def test_the_lower_bound_reaches_the_truth_from_below_with_exact_denoisers():
    x, label = drawn(256)
    nats = block_nats(model(32), x, label, 16)
    found = information_bound(nats)
    # With exact scores the bound of k candidates falls short by about Var[e^score]/2k: a few hundredths here.
    assert 0.85 * information() < found.value + 2 * found.stderr
    assert found.value < information() + 2.5 * found.stderr


@pytest.mark.slow
def test_a_wrong_denoiser_stays_below_where_the_bound_difference_does_not():
    x, label = drawn(384)
    made = model(shift=0.5, factor=0.8)
    nats = block_nats(made, x, label, 16)
    found = information_bound(nats)
    assert found.value < information() - 2 * found.stderr
    without = shared_nats(model(factor=0.8), x, None, estimator=Estimator(None), batch=4096)
    given = shared_nats(model(), x, Condition(label=label), estimator=Estimator(None), batch=4096)
    difference = estimate_mean(without - given)
    assert difference.value > information() + 3 * difference.stderr, "a bad model without makes captions look precious"


def test_the_bound_cannot_exceed_the_candidates():
    perfect = torch.full((4, 8), 1e4)
    perfect[0] = 0
    assert information_bound(perfect).value == pytest.approx(math.log(4))
    assert information_bound(torch.zeros(4, 8)).value == pytest.approx(0, abs=1e-12)


def test_its_error_is_that_of_independent_blocks():
    generator = torch.Generator().manual_seed(2)
    blocks = torch.randn(400, 8, 50, generator=generator, dtype=torch.float64)  # a common part a block
    nats = torch.randn(400, 8, 50, 8, generator=generator, dtype=torch.float64) + 2 * blocks[..., None]
    nats[:, 0] = 0
    found = [information_bound(part.flatten(1)) for part in nats]
    spread = float(torch.tensor([one.value for one in found]).std())
    told = sum(one.stderr for one in found) / len(found)
    assert told == pytest.approx(spread, rel=0.15)


def test_shared_noise_is_that_of_measure_and_a_row_does_not_depend_on_the_others():
    x, label = drawn(12)
    made = model()
    options = {"estimator": Estimator(5), "seed": 3}
    every = shared_nats(made, x, Condition(label=label), batch=7, **options)
    measured = summarize(made, list(evaluate_batches(made, x, label, **options)), **options)
    torch.testing.assert_close(every, measured.total, atol=1e-9, rtol=0)
    rows = torch.tensor([1, 4, 11])
    some = shared_nats(made, x, Condition(label=label[rows]), rows, batch=5, **options)
    torch.testing.assert_close(some, every[rows], atol=1e-9, rtol=0)


def test_partners_are_the_block_in_turn():
    partner = block_partners(7, 3)
    assert partner.tolist() == [[0, 1, 2, 3, 4, 5], [1, 2, 0, 4, 5, 3], [2, 0, 1, 5, 3, 4]]


def test_a_bound_below_zero_is_worth_zero_and_one_block_gives_no_number():
    nats = torch.zeros(4, 8, dtype=torch.float64)
    nats[0] = 3 + torch.arange(8)
    known = torch.zeros(8)
    found = CaptionInformation(("a",) * 8, tuple(range(8)), known, known, nats, 1)
    lower = found.to_dict()["information_lower_bound"]
    assert lower["nats"]["mean"] < -1
    assert lower["at_least_nats"] == 0
    assert lower_bound_in_words(lower)[0] == "0"
    single = replace(found, candidates=nats[:, :4]).to_dict()["information_lower_bound"]
    assert (single["nats"]["mean"], single["at_least_nats"]) == (None, None)
    figure, words = lower_bound_in_words(single)
    assert (figure, "at least 8 are needed, 32 are better" in words) == ("unknown", True)
    sure = replace(found, candidates=-nats).to_dict()["information_lower_bound"]
    assert lower_bound_in_words(sure)[0].startswith("1.3")


def test_what_is_refused():
    x, label = drawn(4)
    with pytest.raises(UserError, match="take at least 2"):
        block_partners(10, 1)
    with pytest.raises(UserError, match="3 images make no block of 5 candidate captions: at least 10"):
        block_partners(3, 5)
    with pytest.raises(UserError, match="3 conditions for 4 images"):
        shared_nats(model(), x, Condition(label=label[:3]))
    with pytest.raises(ValueError, match="one randomization"):
        shared_nats(model(), x, None, estimator=Estimator(4, replicates=2))
