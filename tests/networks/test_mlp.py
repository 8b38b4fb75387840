import pytest
import torch

from markovae.networks.conditioning import Condition
from markovae.networks.mlp import MLP, MLPConfig


def test_learns_the_denoiser_of_a_gaussian() -> None:
    """For x ~ N(0, 4) the best noise prediction is s·z/(4a² + s²), an exact function of z and log-SNR."""
    torch.manual_seed(0)
    network = MLP(MLPConfig(1, 1, width=32, depth=2))
    optimizer = torch.optim.Adam(network.parameters(), 2e-2)
    for step in range(120):
        for group in optimizer.param_groups:
            group["lr"] = 2e-2 * (1 - step / 120)
        level = torch.rand(256) * 8 - 4
        a, s = torch.sigmoid(level).sqrt()[:, None], torch.sigmoid(-level).sqrt()[:, None]
        noise = torch.randn(256, 1)
        loss = (network(2 * a * torch.randn(256, 1) + s * noise, level) - noise).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    z, level = torch.linspace(-1.5, 1.5, 7)[:, None], torch.tensor([1.0]).expand(7)
    a, s = torch.sigmoid(level[:1]).sqrt(), torch.sigmoid(-level[:1]).sqrt()
    expected = s * z / (4 * a**2 + s**2)
    assert (network(z, level) - expected).abs().max() < 0.15


def test_conditions_act_and_outputs_start_at_zero() -> None:
    network = MLP(MLPConfig(2, 4, num_classes=2))
    z, level = torch.randn(3, 2), torch.tensor([0.0, 1.0, float("inf")])
    assert network(z, level).eq(0).all()
    torch.nn.init.normal_(network.head.weight)
    one = network(z, level, Condition(label=torch.zeros(3, dtype=torch.int64)))
    assert one.shape == (3, 4)
    assert (one - network(z, level)).abs().max() > 1e-4


def test_wrong_shapes_are_refused() -> None:
    network = MLP(MLPConfig(2, 2))
    assert network.stride == 1
    with pytest.raises(ValueError, match=r"must be \(B, 2\)"):
        network(torch.zeros(3, 5), torch.zeros(3))
    with pytest.raises(ValueError, match="one for each"):
        network(torch.zeros(3, 2), torch.zeros(2))
    with pytest.raises(ValueError, match="at least 1"):
        MLPConfig(0, 2)


def test_in_float64_it_works_wholly_in_float64() -> None:
    torch.manual_seed(0)
    network = MLP(MLPConfig(2, 2, width=16, num_classes=2, vector_dim=3)).double()
    torch.nn.init.normal_(network.head.weight)
    z = torch.randn(4, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    level = torch.tensor([3.0, -2.0, 0.5, 9.0], dtype=torch.float64)
    with torch.no_grad():
        up, down = network(z, level + 1e-5), network(z, level - 1e-5)
    assert up.dtype == torch.float64
    at = level.clone().requires_grad_()
    network(z, at).sum().backward()
    assert float((up - down).sum()) / 2e-5 == pytest.approx(float(at.grad.sum()), rel=1e-7)
