"""Text encoders of other people: folders of a CLIP or T5 as transformers saves them."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.text.encoder_folders import KINDS, word_tokenizer, write_encoder

from markovae.checkpoints.reading import load, open_checkpoint
from markovae.config import Config
from markovae.errors import UserError
from markovae.run.start import resume_run, train_run
from markovae.text.conditioner import EncoderConditioner
from markovae.text.encoders import encoder_hash, load_encoder, token_width


@pytest.fixture(scope="module")
def transformers() -> Any:
    return pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def made(transformers: Any, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of each kind, made once."""
    folders: dict[str, Path] = {}

    def make(kind: str) -> Path:
        if kind not in folders:
            folders[kind] = write_encoder(tmp_path_factory.mktemp(kind.replace(" ", "-")), kind)
        return folders[kind]

    return make


@pytest.mark.parametrize("kind", KINDS)
def test_the_features_are_those_of_transformers(transformers: Any, made: Callable[[str], Path], kind: str):
    folder, captions = made(kind), ["a red barn", "the snow", "a red barn in the snow"]
    encoder = load_encoder(str(folder))
    assert encoder.width == token_width(str(folder)) == (24 if kind == "t5" else 32)
    features, mask = encoder(captions)
    assert mask.sum(1).tolist() == [5, 4, 8]
    assert not features[~mask].any()
    of = transformers.T5EncoderModel if kind == "t5" else transformers.CLIPTextModel
    model, tokenizer = of.from_pretrained(folder).eval(), word_tokenizer(transformers)
    for row, caption in enumerate(captions):
        with torch.no_grad():
            alone = model(**tokenizer(caption, return_tensors="pt", return_token_type_ids=False)).last_hidden_state
        torch.testing.assert_close(features[row][mask[row]], alone[0], atol=1e-5, rtol=0)


def test_a_long_caption_is_cut_at_the_positions_there_are(made: Callable[[str], Path], capsys):
    encoder = load_encoder(str(made("clip")))
    features, mask = encoder(["red " * 30])
    assert features.shape == (1, 12, 32)
    assert mask.all()
    assert "a caption of 32 tokens is cut to 12" in capsys.readouterr().err
    assert load_encoder(str(made("t5")))(["red " * 30])[0].shape == (1, 32, 24)


def test_a_run_on_a_folders_features(made: Callable[[str], Path], tiny_config: Config, tmp_path: Path, monkeypatch):
    """Trained, resumed, sampled from; without its encoder it still opens, and captions alone are refused."""
    monkeypatch.setenv("MARKOVAE_CACHE", str(tmp_path / "cache"))
    encoder, photos, rng = tmp_path / "encoder", tmp_path / "photos", np.random.default_rng(0)
    shutil.copytree(made("t5"), encoder)
    photos.mkdir()
    for i in range(30):
        Image.fromarray(rng.integers(0, 256, (8, 8), dtype=np.uint8)).save(photos / f"{i:02d}.png")
        (photos / f"{i:02d}.txt").write_text("a red barn" if i % 2 else "the snow")
    monkeypatch.chdir(tmp_path)
    settings = ["condition.kind=text", "condition.encoder=encoder", f"data.source={photos}", "train.steps=4"]
    run = train_run(tiny_config.with_settings(settings), tmp_path / "run")
    text = open_checkpoint(run).text
    assert (text["encoder"], text["width"]) == (str(encoder), 24)
    assert text["sha256"] == encoder_hash(str(encoder))
    monkeypatch.chdir("/")
    resume_run(run, steps=6)
    assert load(run).text_conditioner.prompts(["a barn"]).tokens.shape == (1, 4, 24)
    encoder.rename(tmp_path / "away")
    model = load(run)
    assert model.network.condition.token_dim == 24
    with pytest.raises(UserError, match=r"encoder' not found: give all-MiniLM-L6-v2, or the folder of a CLIP or T5"):
        model.text_conditioner.prompts(["a barn"])


def test_every_file_counts_in_the_hash(made: Callable[[str], Path], tmp_path: Path):
    folder = tmp_path / "encoder"
    shutil.copytree(made("clip"), folder)
    before = encoder_hash(str(folder))
    assert before == encoder_hash(str(made("clip")))
    (folder / "README.md").write_text("other words")
    assert encoder_hash(str(folder)) == before
    (folder / "tokenizer.json").write_text("{}")
    assert encoder_hash(str(folder)) != before
    with pytest.raises(UserError, match="trained with the text encoder"):
        EncoderConditioner(str(folder), before).prompts(["a barn"])


def test_weights_that_are_missing_are_not_made_up(made: Callable[[str], Path], tmp_path: Path):
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "encoder"
    shutil.copytree(made("clip"), folder)
    weights = load_file(folder / "model.safetensors")
    name = next(name for name in weights if "layers.1" in name)
    del weights[name]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"is not a text encoder: its weights lack .*layers\.1"):
        load_encoder(str(folder))
    (folder / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(UserError, match=r"is not a text encoder: model\.safetensors holds no tensors"):
        load_encoder(str(folder))


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (None, r"config\.json cannot be read"),
        ("[]", "is not a JSON object"),
        ("{", "cannot be read"),
        ('{"model_type": "bert"}', "type 'bert': a text encoder is one of clip, clip_text_model, t5"),
        ('{"model_type": "t5", "d_model": "512"}', r"says d_model='512'"),
    ],
)
def test_folders_that_are_no_encoders(tmp_path: Path, config: str | None, said: str):
    if config is not None:
        (tmp_path / "config.json").write_text(config)
    with pytest.raises(UserError, match=said):
        token_width(str(tmp_path))


def test_pickled_weights_are_not_read(tmp_path: Path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "clip", "text_config": {}}))
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04N.")
    assert token_width(str(tmp_path)) == 512
    with pytest.raises(UserError, match="pickled weights are never read: save it as safetensors"):
        encoder_hash(str(tmp_path))


def test_a_missing_library_names_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "t5"}))
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    with pytest.raises(UserError, match=r"needs transformers: pip install 'markovae\[encoders\]'"):
        load_encoder(str(tmp_path))


@pytest.mark.parametrize(
    ("file", "change"),
    [
        ("config.json", {"auto_map": {"AutoModel": "modeling.Evil"}}),
        ("config.json", {"attn_implementation": "somebody/kernel"}),
        ("config.json", {"_attn_implementation": "flash_attention_2"}),
        ("config.json", {"text_config": {"attn_implementation": "somebody/kernel:attention"}}),
        ("config.json", {"quantization_config": {"quant_method": "bitsandbytes"}}),
        ("config.json", {"max_position_embeddings": "77"}),
        ("config.json", {"max_position_embeddings": 10**30}),
        ("tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["tok.Evil", None]}}),
        ("tokenizer_config.json", {"tokenizer_file": "/etc/passwd"}),
        ("tokenizer_config.json", {"vocab_file": "../../secret.json"}),
        ("adapter_config.json", {"base_model_name_or_path": "somebody/model"}),
        ("model.safetensors.index.json", {"weight_map": {"w": "../../other.safetensors"}}),
        ("model.safetensors.index.json", {"weight_map": {"w": "pytorch_model.bin"}}),
        ("model.safetensors.index.json", {"weight_map": [1]}),
    ],
)
def test_a_folder_that_has_more_read_or_run_than_it_holds_is_refused_before_transformers_sees_it(
    made: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, change: dict[str, Any]
) -> None:
    """A kernel that config.json names would be fetched from a hub and run, whatever trust_remote_code says."""
    folder = shutil.copytree(made("clip"), tmp_path / "encoder")
    table = json.loads((folder / file).read_text()) if (folder / file).exists() else {}
    (folder / file).write_text(json.dumps({**table, **change}))
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    with pytest.raises(UserError, match=r"remove it|other than safetensors beside|save them merged|config\.json says"):
        load_encoder(str(folder))


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors", "spiece.model", "extra.txt"])
@pytest.mark.parametrize("target", ["/proc/self/environ", "/etc/passwd", "/dev/zero", "../outside.json", "nowhere"])
def test_links_out_of_the_folder_are_refused_before_they_are_opened(
    made: Callable[[str], Path], tmp_path: Path, name: str, target: str
) -> None:
    folder = shutil.copytree(made("clip"), tmp_path / "encoder")
    (tmp_path / "outside.json").write_text("{}")
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(target)
    for ask in (load_encoder, encoder_hash, token_width):
        with pytest.raises(UserError, match=r"is not a regular file|is a link out of its folder"):
            ask(str(folder))


def test_the_cache_of_hugging_face_is_links(made: Callable[[str], Path], tmp_path: Path) -> None:
    folder, blobs = tmp_path / "snapshots" / "0123", tmp_path / "blobs"
    folder.mkdir(parents=True)
    blobs.mkdir()
    for number, file in enumerate(sorted(made("clip").iterdir())):
        shutil.copy(file, blobs / f"{number}")
        (folder / file.name).symlink_to(f"../../blobs/{number}")
    (tmp_path / "link").symlink_to(folder)
    assert load_encoder(str(tmp_path / "link"))(["a red barn"])[0].shape == (1, 5, 32)


def test_tokens_that_the_weights_do_not_have_are_one_sentence(made: Callable[[str], Path], tmp_path: Path) -> None:
    folder = shutil.copytree(made("clip"), tmp_path / "encoder")
    text = (folder / "tokenizer.json").read_text()
    (folder / "tokenizer.json").write_text(text.replace('"snow": 8', '"snow": 800'))
    with pytest.raises(UserError, match="its tokenizer gives token 800 where its weights have 10: save the two"):
        load_encoder(str(folder))(["the snow"])


@pytest.mark.parametrize(
    ("kind", "change"),
    [("clip", {"num_attention_heads": 3}), ("t5", {"dropout_rate": float("nan")}), ("t5", {"initializer_factor": "a"})],
)
def test_what_the_library_says_in_paragraphs_is_one_sentence(
    made: Callable[[str], Path], tmp_path: Path, kind: str, change: dict[str, Any]
) -> None:
    folder = shutil.copytree(made(kind), tmp_path / "encoder")
    table = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**table, **change}))
    with pytest.raises(UserError) as raised:
        load_encoder(str(folder))(["the snow"])
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 500 + len(str(folder))


def test_a_panic_of_the_tokenizer_is_one_sentence(made: Callable[[str], Path], tmp_path: Path) -> None:
    folder = shutil.copytree(made("clip"), tmp_path / "encoder")
    table = json.loads((folder / "tokenizer.json").read_text())
    table["post_processor"]["special_tokens"].clear()  # its template names them still
    (folder / "tokenizer.json").write_text(json.dumps(table))
    with pytest.raises(UserError, match="is not a text encoder that transformers can read"):
        load_encoder(str(folder))(["a red barn"])


def test_an_interrupt_while_an_encoder_works_is_an_interrupt(
    made: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = load_encoder(str(made("clip")))

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(encoder, "_tokenizer", interrupted)
    with pytest.raises(KeyboardInterrupt):
        encoder(["a"])


def test_pipes_and_depths_in_a_folder_are_refused_at_once(made: Callable[[str], Path], tmp_path: Path) -> None:
    folder = shutil.copytree(made("clip"), tmp_path / "encoder")
    __import__("os").mkfifo(folder / "added.json")
    with pytest.raises(UserError, match="not a regular file"):
        encoder_hash(str(folder))
    (folder / "added.json").unlink()
    for content in ("[" * 100_000, '{"model_type": ["clip"]}', '{"model_type": "clip", "text_config": 3}'):
        (folder / "config.json").write_text(content)
        with pytest.raises(UserError):
            load_encoder(str(folder))


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("clip", {"num_hidden_layers": 20_000}),
        ("clip", {"num_hidden_layers": 3}),
        ("clip", {"num_hidden_layers": 0}),
        ("clip", {"num_hidden_layers": "2"}),
        ("clip", {"vocab_size": 2**31}),
        ("clip", {"vocab_size": 10**400}),
        ("clip", {"hidden_size": 2**20}),
        ("clip", {"intermediate_size": 2**20}),
        ("clip", {"max_position_embeddings": 2**20}),
        ("whole clip", {"text_config": {}}),
        ("t5", {"num_layers": 20_000}),
        ("t5", {"num_hidden_layers": 20_000}),
        ("t5", {"vocab_size": 2**20}),
        ("t5", {"d_model": 2**20}),
        ("t5", {"d_kv": 2**20}),
        ("t5", {"d_ff": 2**20}),
        ("t5", {"num_heads": 2**20}),
        ("t5", {"relative_attention_num_buckets": 2**20}),
    ],
)
def test_sizes_that_the_weights_do_not_have_are_refused_before_a_model_is_made(
    made: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, change: dict[str, Any]
) -> None:
    folder = shutil.copytree(made(kind), tmp_path / "encoder")
    table = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**table, **change}))
    monkeypatch.setattr("torch.nn.Module.__init__", lambda *a, **k: pytest.fail("a model was made"))
    with pytest.raises(UserError, match=r"is not a text encoder"):
        load_encoder(str(folder))


def test_whole_numbers_beside_the_weights_are_read(made: Callable[[str], Path], tmp_path: Path) -> None:
    """Older folders of a CLIP hold its positions, int64."""
    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(made("clip"), tmp_path / "encoder")
    weights = load_file(folder / "model.safetensors") | {"embeddings.position_ids": torch.arange(12)[None]}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert load_encoder(str(folder)).width == 32
