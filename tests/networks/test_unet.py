"""The U-Net: its layouts, its readers of text, and that it learns."""

import torch
from tests.networks.small import fresh_unet, latent, lively_unet, text


def test_layouts_agree() -> None:
    network, z, level = lively_unet(), latent(), torch.tensor([-3.0, 0.0, 8.0])
    expected = network(z, level)
    other = lively_unet().to(memory_format=torch.channels_last)
    found = other(z.contiguous(memory_format=torch.channels_last), level)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_learns_a_denoiser_of_flat_images() -> None:
    network = fresh_unet(in_channels=1, out_channels=1)
    optimizer = torch.optim.Adam(network.parameters(), 6e-3)
    for step in range(35):
        generator = torch.Generator().manual_seed(step)
        x = torch.rand(16, 1, 1, 1, generator=generator) * 2 - 1
        noise = torch.randn(16, 1, 8, 8, generator=generator)
        level = torch.full((16,), 9.0)
        z = (
            torch.sigmoid(level)[:, None, None, None].sqrt() * x
            + torch.sigmoid(-level)[:, None, None, None].sqrt() * noise
        )
        loss = (network(z, level) - noise).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.35  # predicting zero costs 1; the flat colour is all that hides the noise


def test_every_weight_that_reads_a_text_is_trained() -> None:
    network = lively_unet(token_dim=6)
    network(latent(), torch.zeros(3), text()).square().mean().backward()
    reading = [w for name, w in network.named_parameters() if "text" in name or "null_token" in name]
    assert len(reading) > 10
    assert all(w.grad is not None and bool(w.grad.abs().sum() > 0) for w in reading)
