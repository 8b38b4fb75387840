"""Captions become conditions: a sentence encoder's features of every token, kept for a whole data set."""

from markovae.text.captions import CaptionTokens, encode_captions
from markovae.text.encoder import DEFAULT_ENCODER, TextEncoder, load_encoder, sentence_vector

__all__ = ["DEFAULT_ENCODER", "CaptionTokens", "TextEncoder", "encode_captions", "load_encoder", "sentence_vector"]
