"""CLIP and T5 folders as transformers saves them: random ones of a few thousand weights."""

from pathlib import Path
from typing import Any

import pytest
import torch

WORDS = ["<pad>", "<s>", "</s>", "a", "red", "barn", "in", "the", "snow", "<unk>"]
KINDS = ("clip", "whole clip", "t5")


def write_encoder(folder: Path, kind: str) -> Path:
    """The folder of an encoder of one of `KINDS`; skips where transformers is not installed."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    _model(transformers, kind).save_pretrained(folder)
    word_tokenizer(transformers).save_pretrained(folder)
    return folder


def _model(transformers: Any, kind: str) -> Any:
    if kind == "t5":
        sizes = {"vocab_size": len(WORDS), "d_model": 24, "d_kv": 12, "d_ff": 48, "num_layers": 2, "num_heads": 2}
        return transformers.T5EncoderModel(transformers.T5Config(**sizes))
    text = {
        "vocab_size": len(WORDS),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": 12,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
    }
    if kind == "clip":
        return transformers.CLIPTextModel(transformers.CLIPTextConfig(**text))
    image = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    image |= {"image_size": 8, "patch_size": 4}
    return transformers.CLIPModel(transformers.CLIPConfig(text_config=text, vision_config=image, projection_dim=8))


def word_tokenizer(transformers: Any) -> Any:
    tokenizers = pytest.importorskip("tokenizers")
    numbers = {word: number for number, word in enumerate(WORDS)}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(numbers, unk_token="<unk>"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.post_processor = tokenizers.processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="<pad>"
    )
