"""The exact reverse chain: every path costs −ln p(x), whatever its noise."""

import pytest
import torch

from markovae.diffusion.pixels import Pixels
from markovae.diffusion.schedule import LogSNRLinear, constant
from markovae.randomness import generator
from markovae.theory.check_gaps import exact_chain_nats, path_nats
from markovae.theory.exact_chain import ExactChain
from markovae.theory.mixture import Mixture, correlated_gaussian, line_mixture, pink_gaussian, pink_pair
from markovae.theory.pixel_mixture import DigitMixture

F64 = torch.float64


def digits() -> DigitMixture:
    means, stds = torch.tensor([[0.3, -0.3], [-0.5, 0.5]]), torch.tensor([[0.2, 0.3], [0.1, 0.4]])
    return DigitMixture.discretised(torch.tensor([0.4, 0.6]), means, stds, Pixels(16))


def plane() -> Mixture:
    covariances = torch.tensor([[[0.2, 0.05], [0.05, 0.1]], [[0.1, -0.08], [-0.08, 0.3]]])
    return Mixture.full(torch.tensor([0.4, 0.6]), torch.tensor([[1.0, 0.0], [-1.0, 0.5]]), covariances)


TOYS = {
    "line": line_mixture(),
    "plane": plane(),
    "gaussian": correlated_gaussian(),
    "pink": pink_gaussian((3, 8, 8)),
    "pair": pink_pair((1, 8, 8)),
    "digits": digits(),
}


@pytest.mark.parametrize("toy", TOYS.values(), ids=TOYS.keys())
@pytest.mark.parametrize("levels", [1, 2, 40])
def test_every_path_costs_the_nats_of_its_data(toy, levels):
    if levels == 1:
        chain, source = ExactChain(toy, LogSNRLinear(2, 1.0, -1.0).subgrid(1)), generator(0, "one")
        x = toy.sample(8, source)
        measured = float((path_nats(chain, x, source) + toy.log_prob(x)).abs().max()) / toy.dims
    else:
        _, measured = exact_chain_nats(toy, levels)
    assert measured < 1e-9


def test_constant_sigma_changes_nothing():
    toy, schedule = TOYS["line"], constant(num_levels=100, delta=0.05)
    chain, source = ExactChain(toy, schedule), generator(1, "constant")
    x = toy.sample(8, source)
    torch.testing.assert_close(path_nats(chain, x, source), -toy.log_prob(x), rtol=0, atol=1e-9)


def test_paths_of_one_point_have_no_variance():
    toy = TOYS["plane"]
    chain, x = ExactChain(toy, LogSNRLinear(60)), torch.tensor([[0.3, 0.1]], dtype=F64).expand(200, 2)
    nats = path_nats(chain, x, generator(2, "paths"))
    assert float(nats.var()) < 1e-18
    encoded = chain.encode(x, generator(2, "paths"))
    assert float(encoded[30].var(0).min()) > 1e-3


def test_another_toys_chain_costs_more_on_average():
    data, other = TOYS["line"], Mixture.line([1.0], [-0.1], [0.9])
    chain, source = ExactChain(other, LogSNRLinear(40)), generator(3, "other")
    x = data.sample(20_000, source)
    nats = path_nats(chain, x, source)
    assert float(nats.mean()) - data.entropy() > 4 * float(nats.std()) / len(nats) ** 0.5


@pytest.mark.parametrize("name", ["plane", "digits"])
def test_generating_gives_the_moments_of_the_data(name):
    toy, count = TOYS[name], 20_000
    chain = ExactChain(toy, LogSNRLinear(12))
    x = chain.generate(count, generator(4, "generate"))
    distribution = toy.distribution(1)
    mean, covariance = distribution.mean()[0], distribution.covariance()[0]
    assert bool(((x.mean(0) - mean).abs() < 4 * (covariance.diagonal() / count).sqrt()).all())
    products = (x - mean).unsqueeze(2) * (x - mean).unsqueeze(1)
    assert bool(((products.mean(0) - covariance).abs() < 4.5 * products.std(0) / count**0.5).all())


def test_chain_offers_marginal_and_posterior_that_agree_with_its_steps():
    toy = TOYS["line"]
    chain, x = ExactChain(toy, LogSNRLinear(5)), torch.tensor([[0.4]])
    z_prev = chain.marginal(x, 2).sample(generator(5, "prev"))
    z = chain.encoder_step(z_prev, 3).sample(generator(5, "z"))
    ahead = chain.marginal(x, 2).log_prob(z_prev) + chain.encoder_step(z_prev, 3).log_prob(z)
    back = chain.marginal(x, 3).log_prob(z) + chain.posterior(x, z, 3).log_prob(z_prev)
    torch.testing.assert_close(back, ahead)
