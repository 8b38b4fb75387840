"""Captions become conditions: a text encoder's features of every token, kept for a whole data set."""

from markovae.text.captions import CaptionTokens, encode_captions
from markovae.text.encoder import TextEncoder, sentence_vector
from markovae.text.named import DEFAULT_ENCODER, encoder_hash, load_encoder, token_width
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
