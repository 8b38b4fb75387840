import torch

from markovae.randomness import Streams, generator
from markovae.theory.linear import LinearGaussianChain, LinearStep, Moments, exact_linear


def chain() -> tuple[Moments, LinearGaussianChain]:
    eye = torch.eye(2, dtype=torch.float64)
    data = Moments(torch.tensor([1.0, -1.0]).double(), torch.tensor([[0.5, 0.2], [0.2, 0.3]]).double())
    steps = [LinearStep(a * eye, 0 * eye[0], (1 - a**2) * eye) for a in (0.9, 0.7, 0.4)]
    return data, exact_linear(data, steps)


def test_a_path_starts_at_the_data_and_has_the_chains_marginals() -> None:
    data, vae = chain()
    x = data.batch(20_000).sample(generator(0, "x"))
    path = vae.encode(x, generator(0, "path"))
    assert len(path) == 4
    assert torch.equal(path[0], x)
    for level in range(1, 4):
        marginal = vae.marginal(x, level)
        white = torch.linalg.solve_triangular(
            torch.linalg.cholesky(marginal.covariance), (path[level] - marginal.mean).T, upper=False
        )
        assert bool((white.mean(1).abs() < 4 / 20_000**0.5).all())
        assert bool(((white.var(1) - 1).abs() < 4 * (2 / 20_000) ** 0.5).all())


def test_an_examples_path_is_its_own() -> None:
    data, vae = chain()
    x = data.batch(4).sample(generator(0, "x"))
    whole = vae.encode(x, Streams(0, "p", range(4)))
    alone = vae.encode(x[2:3], Streams(0, "p", [2]))
    for a, b in zip(whole, alone, strict=True):
        torch.testing.assert_close(a[2:3], b, rtol=1e-14, atol=1e-14)
