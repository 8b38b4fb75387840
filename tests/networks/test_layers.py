import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from markovae.networks.layers import (
    CrossAttention,
    ResidualBlock,
    SelfAttention,
    attend,
    group_count,
    modulated_norm,
    zeroed,
)


@given(st.integers(1, 1024))
def test_groups_divide_the_channels(channels: int) -> None:
    groups = group_count(channels)
    assert channels % groups == 0
    assert 1 <= groups <= 32


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_modulated_norm_equals_its_definition(layout: torch.memory_format) -> None:
    generator = torch.Generator().manual_seed(0)
    h = (3 + 2 * torch.randn(2, 8, 4, 6, generator=generator)).contiguous(memory_format=layout).requires_grad_()
    scale, shift = (torch.randn(2, 8, generator=generator, requires_grad=True) for _ in range(2))
    grouped = h.reshape(2, 4, -1)
    mean, variance = grouped.mean(2, keepdim=True), grouped.var(2, unbiased=False, keepdim=True)
    normed = ((grouped - mean) / (variance + 1e-5).sqrt()).reshape(h.shape)
    expected = normed * (1 + scale)[..., None, None] + shift[..., None, None]
    found = modulated_norm(h, 4, scale, shift)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    probe = torch.randn(h.shape, generator=generator)
    wanted = torch.autograd.grad((expected * probe).sum(), (h, scale, shift))
    given_ = torch.autograd.grad((found * probe).sum(), (h, scale, shift))
    for one, two in zip(given_, wanted, strict=True):
        torch.testing.assert_close(one, two, atol=1e-4, rtol=1e-4)


def test_blocks_start_as_the_identity() -> None:
    h = torch.randn(2, 32, 4, 4, generator=torch.Generator().manual_seed(0))
    assert torch.equal(ResidualBlock(32, 8)(h, torch.randn(2, 8)), h)
    assert torch.equal(SelfAttention(32, 16)(h), h)


def test_attention_does_not_care_about_the_order_of_positions() -> None:
    torch.manual_seed(0)
    attention = SelfAttention(32, 16)
    torch.nn.init.normal_(attention.out.weight)
    h = torch.randn(2, 32, 4, 4)
    turned = attention(h.flip(2, 3)).flip(2, 3)
    torch.testing.assert_close(turned, attention(h), atol=1e-4, rtol=1e-4)


def test_attention_equals_its_definition() -> None:
    torch.manual_seed(0)
    attention = SelfAttention(8, 8)
    torch.nn.init.normal_(attention.out.weight)
    h = torch.randn(1, 8, 2, 3)
    tokens = attention.norm(h).flatten(2)[0].T
    q, k, v = attention.qkv(tokens).chunk(3, dim=1)
    q, k = (t / (t.square().mean(1, keepdim=True) + 1e-5).sqrt() for t in (q, k))
    mixed = attention.out((q @ k.T / 8**0.5).softmax(1) @ v)
    torch.testing.assert_close(attention(h)[0], h[0] + mixed.T.reshape(8, 2, 3), atol=1e-5, rtol=1e-4)


def test_zeroed_layers_are_silent() -> None:
    assert zeroed(torch.nn.Linear(3, 2))(torch.ones(3)).eq(0).all()
    assert F.conv2d(torch.ones(1, 2, 3, 3), zeroed(torch.nn.Conv2d(2, 2, 3)).weight).eq(0).all()


def test_cross_attention_equals_its_definition_for_every_length() -> None:
    torch.manual_seed(4)
    layer = CrossAttention(8, 5, 4)
    torch.nn.init.normal_(layer.out.weight)
    h, tokens = torch.randn(3, 8, 2, 3), torch.randn(3, 6, 5)
    mask = torch.arange(6) < torch.tensor([1, 4, 6])[:, None]
    found = layer(h, tokens, mask)
    for b, length in enumerate((1, 4, 6)):
        q = layer.query(layer.norm(h)[b].flatten(1).T).reshape(6, 2, 4)
        k, v = layer.key_value(layer.read(tokens[b, :length])).chunk(2, dim=1)
        q, k = (F.rms_norm(x.reshape(-1, 2, 4), (4,), eps=1e-5) for x in (q, k))
        weights = torch.einsum("ihd,jhd->hij", q, k).div(2).softmax(-1)
        mixed = torch.einsum("hij,jhd->ihd", weights, v.reshape(-1, 2, 4)).reshape(6, 8)
        torch.testing.assert_close(found[b], h[b] + layer.out(mixed).T.reshape(8, 2, 3), atol=1e-5, rtol=1e-4)


def test_attention_to_few_tokens_is_attention():
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 3, n, 8, generator=generator) for n in (5, 4, 4))
    mask = torch.tensor([[True, True, False, True], [True, False, False, False]])[:, None, None, :]
    exact = (q.double() @ k.double().transpose(-1, -2) / 8**0.5).masked_fill(~mask, -torch.inf).softmax(-1) @ v.double()
    torch.testing.assert_close(attend(q, k, v, mask).double(), exact, atol=1e-5, rtol=0)
    use_bf16 = attend(q.bfloat16(), k.bfloat16(), v.bfloat16(), mask)
    assert use_bf16.dtype == torch.bfloat16
    torch.testing.assert_close(use_bf16.double(), exact, atol=5e-2, rtol=0)
    assert torch.equal(use_bf16[1], v.bfloat16()[1][:, :1].expand(-1, 5, -1)), "of one token nothing else is read"
