"""Captions become conditions: a sentence encoder's features of every token, kept for a whole data set."""

from markovae.text.captions import CaptionTokens, encode_captions
from markovae.text.encoder import (
    DEFAULT_ENCODER,
    TextEncoder,
    encoder_hash,
    load_encoder,
    sentence_vector,
    token_width,
)
from markovae.text.reader import CaptionGivens, EncoderReader, captions_of
from markovae.text.worth import Choice, Worth, weigh_captions

__all__ = [
    "DEFAULT_ENCODER",
    "CaptionGivens",
    "CaptionTokens",
    "Choice",
    "EncoderReader",
    "TextEncoder",
    "Worth",
    "captions_of",
    "encode_captions",
    "encoder_hash",
    "load_encoder",
    "sentence_vector",
    "token_width",
    "weigh_captions",
]
