import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from markovae.randomness import generator
from markovae.theory.mixture import Modes

F64 = torch.float64


def rotation(size: int, seed: int) -> torch.Tensor:
    return torch.linalg.qr(torch.randn(size, size, generator=generator(seed, "axes", size), dtype=F64))[0]


@settings(max_examples=20)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=3), st.integers(0, 99))
def test_factors_are_a_kronecker_product(sizes, seed):
    factors = [rotation(size, seed + i) for i, size in enumerate(sizes)]
    whole = torch.ones(1, 1, dtype=F64)
    for factor in factors:
        whole = torch.kron(whole, factor)
    dims = len(whole)
    variance = 0.1 + torch.rand(1, dims, generator=generator(seed, "variance"), dtype=F64)
    modes = Modes(variance, tuple(factor.unsqueeze(0) for factor in factors))
    x = torch.randn(5, 1, dims, generator=generator(seed, "x"), dtype=F64)
    torch.testing.assert_close(modes.into(x), x @ whole)
    torch.testing.assert_close(modes.out_of(modes.into(x)), x)
    torch.testing.assert_close(modes.matrix(variance.unsqueeze(0))[0, 0], whole @ torch.diag(variance[0]) @ whole.T)


def test_matrices_come_back():
    root = torch.randn(3, 4, 4, generator=generator(0, "root"), dtype=F64)
    covariances = root @ root.mT + 0.1 * torch.eye(4, dtype=F64)
    modes = Modes.of_matrices(covariances)
    torch.testing.assert_close(modes.matrix(modes.variance.unsqueeze(0))[0], covariances)
    torch.testing.assert_close(modes.variance.log().sum(1), torch.logdet(covariances))


@pytest.mark.parametrize(
    ("matrix", "sentence"),
    [
        ([[1.0, 2.0], [2.0, 1.0]], "not positive definite"),
        ([[1.0, 1.0], [1.0, 1.0]], "not positive definite"),
        ([[1.0, 0.5], [0.0, 1.0]], "off symmetry"),
        ([[1.0, 0.5, 0.0]], r"must be \(K, d, d\)"),
        ([[float("nan"), 0.0], [0.0, 1.0]], "off symmetry"),
    ],
)
def test_what_is_no_covariance_is_refused(matrix, sentence):
    with pytest.raises(ValueError, match=sentence):
        Modes.of_matrices(torch.tensor([matrix]))


def test_axes_must_span_the_dimensions():
    with pytest.raises(ValueError, match="do not make 3 dimensions"):
        Modes(torch.ones(1, 3), (torch.eye(2).unsqueeze(0),))
