"""A CLIP or T5 in a folder of the user's, run by transformers: the folder is checked before the library sees it."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from torch import Tensor

from markovae.errors import UserError
from markovae.strict_json import parse_object, shown
from markovae.system.tensor_headers import SIZES, WHOLE_SIZES, read_file_header
from markovae.text.text_encoder import TextEncoder


@dataclass(frozen=True)
class _Family:
    """Encoders alike.

    Args:
        kind: the class whose last hidden states are the features.
        width: where a config.json has features of a token;
            left out there, 512.
        limit: tokens of a caption where it gives no max_position_embeddings.
        layers: how many layers there are.
        sizes: of weights, by the ends of their names: each side is the product of what config.json says of these.
    """

    kind: str
    width: str
    limit: int
    layers: str
    sizes: Mapping[str, tuple[tuple[str, ...], ...]]


DEFAULT_WIDTH = 512  # what transformers leaves out of a config.json, for each of them
CLIP_SIZES = {
    r"\.token_embedding\.weight": (("vocab_size",), ("hidden_size",)),
    r"\.position_embedding\.weight": (("max_position_embeddings",), ("hidden_size",)),
    r"\.mlp\.fc1\.weight": (("intermediate_size",), ("hidden_size",)),
}
T5_SIZES = {
    r"\.(shared|embed_tokens)\.weight": (("vocab_size",), ("d_model",)),
    r"\.SelfAttention\.q\.weight": (("num_heads", "d_kv"), ("d_model",)),
    r"\.relative_attention_bias\.weight": (("relative_attention_num_buckets",), ("num_heads",)),
    r"\.DenseReluDense\.wo\.weight": (("d_model",), ("d_ff",)),
}
FAMILIES = {
    "clip": _Family("CLIPTextModel", "hidden_size", 77, "num_hidden_layers", CLIP_SIZES),
    "clip_text_model": _Family("CLIPTextModel", "hidden_size", 77, "num_hidden_layers", CLIP_SIZES),
    # Positions are relative, and any length would do: 128 as in Saharia et al. 2022.
    "t5": _Family("T5EncoderModel", "d_model", 128, "num_layers", T5_SIZES),
    "mt5": _Family("MT5EncoderModel", "d_model", 128, "num_layers", T5_SIZES),
    "umt5": _Family("UMT5EncoderModel", "d_model", 128, "num_layers", T5_SIZES),
}
OTHER_PARTS = ("vision_model.", "decoder.")  # of a whole CLIP or T5, which are not made
LAYER = re.compile(r"\.(?:layers|block)\.(\d{1,4})\.")
MAX_LAYERS = 256
READ = ("*.safetensors", "*.json", "*.txt", "*.model")  # what the features depend on
MAX_JSON = 1 << 24
MAX_SAID = 300  # characters of a library's error
LONGEST = 1 << 20  # tokens, and features of one
# Keys by which a folder has transformers import, fetch or convert something else; empty, they ask for nothing.
BEYOND = ("auto_map", "quantization_config", "use_kernels", "kernel_config", "adapter_path", "_adapter_path")
ATTENTION = ("attn_implementation", "_attn_implementation", "_attn_implementation_internal", "experts_implementation")
PLAIN_ATTENTION = (None, "eager", "sdpa")  # other words name a package, or a kernel to fetch
FILES = ("tokenizer_file", "vocab_file", "merges_file", "spm_file")


@final
class TransformersEncoder(TextEncoder):
    """The text part of a CLIP, or the encoder of a T5.

    Args:
        folder: holds config.json, a tokenizer and *.safetensors; a whole CLIP or T5 will do.
    Raises:
        UserError: where transformers is not installed, or the folder holds no such model.
    """

    def __init__(self, folder: Path) -> None:
        family, table = _description(folder)
        _require_closed(folder)
        limit = _whole(folder, table, "max_position_embeddings", family.limit)
        try:
            import transformers
        except ImportError:
            raise UserError(f"the text encoder {folder} needs transformers: pip install 'markovae[encoders]'") from None
        safe: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
        with _quiet(transformers), _one_sentence(folder):
            kind = getattr(transformers, family.kind)
            # What it makes of config.json, and not the file: a setting may be left out, or have a second name.
            config = kind.config_class.from_pretrained(folder, local_files_only=True)
            _require_sizes(folder, family, config)
            self._tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **safe)
            self._model, found = kind.from_pretrained(
                folder, **safe, config=config, use_safetensors=True, output_loading_info=True
            )
        if found["missing_keys"]:
            raise UserError(f"{folder} is not a text encoder: its weights lack {min(found['missing_keys'])!r}")
        self._model.float().eval().requires_grad_(False)
        self._folder, self._tokens = folder, int(config.vocab_size)
        super().__init__(str(folder), foreign_width(folder), limit)

    def _numbers(self, caption: str) -> list[int]:
        with _one_sentence(self._folder):
            numbers: list[int] = self._tokenizer(caption, verbose=False)["input_ids"]
        beyond = [number for number in numbers if not 0 <= number < self._tokens]
        if beyond:
            raise UserError(
                f"{self._folder} is not a text encoder: its tokenizer gives token {beyond[0]:,} where its weights have "
                f"{self._tokens:,}: save the two together"
            )
        return numbers

    def _features(self, ids: Tensor, mask: Tensor) -> Tensor:
        with _one_sentence(self._folder):
            features: Tensor = self._model(input_ids=ids, attention_mask=mask.long()).last_hidden_state
        return features


def foreign_width(folder: Path) -> int:
    """Features of a token, by config.json alone.

    Raises:
        UserError: for a folder that describes no CLIP or T5.
    """
    family, table = _description(folder)
    return _whole(folder, table, family.width, DEFAULT_WIDTH)


def files_read(folder: Path) -> list[Path]:
    """Every file that the features may depend on, in order.

    Raises:
        UserError: for a folder without safetensors.
    """
    _description(folder)
    if not any(folder.glob("*.safetensors")):
        raise UserError(f"{folder} has no *.safetensors, and pickled weights are never read: save it as safetensors")
    return _files(folder)


def _files(folder: Path) -> list[Path]:
    return sorted(path for pattern in READ for path in folder.glob(pattern))


def require_inside(folder: Path) -> None:
    """Every file of the folder is a regular one that lies in it, or in the store that Hugging Face's cache links to.

    Raises:
        UserError: naming the first that is not.
    """
    home = Path(os.path.realpath(folder))  # which says nothing of links in a circle
    homes = (home, home.parent.parent / "blobs")
    for file in sorted(folder.iterdir()):
        if file.is_dir() and not file.is_symlink():
            continue
        if not file.is_file():  # a pipe would be waited for
            raise UserError(f"{shown(str(file))} of the text encoder is not a regular file: save the encoder again")
        if Path(os.path.realpath(file)).parent not in homes:
            raise UserError(f"{shown(str(file))} of the text encoder is a link out of its folder: put the file there")


def _require_closed(folder: Path) -> None:
    """Refuse a folder that has transformers read, fetch or run what does not lie in it.

    Raises:
        UserError: naming the file and the key.
    """
    files = _files(folder)
    if (folder / "adapter_config.json").exists():
        raise UserError(f"{folder} holds an adapter of another model, which is not looked for: save them merged")
    for file in files:
        if file.name.endswith("config.json"):
            _require_plain(file, _table(file))
        if file.name.endswith(".index.json"):
            names = _table(file).get("weight_map")
            names = list(names.values()) if isinstance(names, dict) else [None]
            for name in names:
                if not isinstance(name, str) or not _is_plain(name) or not name.endswith(".safetensors"):
                    raise UserError(f"{file} names weights other than safetensors beside it: {str(name)[:100]!r}")


def _require_sizes(folder: Path, family: _Family, config: Any) -> None:
    """Compare the sizes of a model with the weights in the folder, by their headers, before it is made.

    Args:
        config: of transformers, for a model of this family.
    Raises:
        UserError: naming the first that differs.
    """
    shapes = _shapes(folder)
    layers = {match[1] for name in shapes if (match := LAYER.search(name))}
    if not 1 <= _setting(folder, config, family.layers) <= min(len(layers), MAX_LAYERS):
        raise UserError(
            f"{folder} is not a text encoder: its config.json says "
            f"{family.layers}={shown(getattr(config, family.layers))}, which must lie in 1…{MAX_LAYERS} and be "
            f"at most the {len(layers):,} layers of its weights"
        )
    for end, sides in family.sizes.items():
        wanted = tuple(math.prod(_setting(folder, config, name) for name in names) for names in sides)
        found = {shape for name, shape in shapes.items() if re.search(f"{end}$", name)}
        if found != {wanted}:
            names = ", ".join(f"{name}={shown(getattr(config, name))}" for side in sides for name in side)
            raise UserError(
                f"{folder} is not a text encoder: its config.json says {names}, which its weights do not have: "
                "save the encoder again"
            )


def _setting(folder: Path, config: Any, name: str) -> int:
    return _whole(folder, {name: getattr(config, name, None)}, name, 0)


def _shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Shapes of the weights that may be taken, by name with a dot before it."""
    shapes: dict[str, tuple[int, ...]] = {}
    for file in sorted(folder.glob("*.safetensors")):
        try:
            entries = read_file_header(file, SIZES | WHOLE_SIZES)
        except (OSError, ValueError) as error:
            raise UserError(f"{folder} is not a text encoder: {file.name} {error}") from None
        shapes |= {f".{name}": entry.shape for name, entry in entries.items() if not name.startswith(OTHER_PARTS)}
    return shapes


def _require_plain(file: Path, table: dict[str, Any]) -> None:
    pending = [table]
    while pending:
        for key, value in pending.pop().items():
            if isinstance(value, dict):
                pending.append(value)
            strange = (
                (key in BEYOND and value)
                or (key in ATTENTION and value not in PLAIN_ATTENTION)
                or (key in FILES and value is not None and not (isinstance(value, str) and _is_plain(value)))
            )
            if strange:
                raise UserError(f"{file} sets {key}, which would have more read or run than this folder: remove it")


def _is_plain(name: str) -> bool:
    """Whether a name is that of a file in the folder itself, on any system."""
    return not set(name) & {"/", "\\", ":", "\0"} and name not in ("", ".", "..")


def _whole(folder: Path, table: dict[str, Any], key: str, default: int) -> int:
    value = table.get(key, default)
    if type(value) is not int or not 1 <= value <= LONGEST:
        raise UserError(f"{folder} is not a text encoder: its config.json says {key}={str(value)[:100]!r}")
    return value


def _description(folder: Path) -> tuple[_Family, dict[str, Any]]:
    """What config.json says of the text encoder.

    Raises:
        UserError: for a folder that describes no CLIP or T5.
    """
    table = _table(folder / "config.json")
    kind = table.get("model_type")
    if not isinstance(kind, str) or kind not in FAMILIES:
        shown = str(kind)[:100]
        raise UserError(f"{folder} holds a model of type {shown!r}: a text encoder is one of {', '.join(FAMILIES)}")
    text = table.get("text_config") or {}
    return FAMILIES[kind], (text if isinstance(text, dict) else {}) if kind == "clip" else table


def _table(file: Path) -> dict[str, Any]:
    try:
        if not file.is_file() or file.stat().st_size > MAX_JSON:
            raise ValueError(f"it must be a regular file of at most {MAX_JSON:,} bytes")
        return parse_object(file.read_bytes(), finite=False, bits=128)  # no limit is 10^30 there
    except (OSError, ValueError) as error:
        raise UserError(f"{file.parent} is not a text encoder: {file.name} cannot be read ({error})") from None


@contextmanager
def _one_sentence(folder: Path) -> Iterator[None]:
    """Whatever the library finds wrong with a folder is one sentence."""
    try:
        yield
    except UserError:
        raise
    except BaseException as error:  # it raises whatever its parts raise, in paragraphs
        # The tokenizers' panics are no `Exception`, and their class cannot be imported.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        said = " ".join(str(error).split())[:MAX_SAID]
        raise UserError(f"{folder} is not a text encoder that transformers can read: {said}") from None


@contextmanager
def _quiet(transformers: Any) -> Iterator[None]:
    """Without its reports and bars: the part of a CLIP that sees images is left out on purpose."""
    logging = transformers.utils.logging
    before, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(before)
        if bars:
            logging.enable_progress_bar()
