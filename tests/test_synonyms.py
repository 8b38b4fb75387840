"""Words of other libraries lead to what is called otherwise here; letters only where they are close."""

import inspect

import pytest

from markovae.cli.entry import command_line
from markovae.config import Config, settings_help
from markovae.errors import UserError
from markovae.synonyms import COMMANDS, VALUES, WORDS
from markovae.tables import _entries, names_of
from markovae.training.train_config import TrainConfig


def said(*words: str) -> str:
    with pytest.raises(UserError) as caught:
        command_line(words)
    return str(caught.value)


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["train", "x", "--lr", "1e-3"], "the learning rates are train.lr"),
        (["train", "x", "--learning-rate=1"], "the learning rates are train.lr"),
        (["train", "x", "--resolution", "64"], "it is a setting, --set data.size"),
        (["train", "x", "--num_epochs", "3"], "no epochs here: --steps N or --minutes M"),
        (["train", "x", "--mixed_precision", "bf16"], "--precision float32 or bfloat16"),
        (["train", "x", "--use_ema"], "always averaged"),
        (["train", "x", "--num-workers", "4"], "nothing to set"),
        (["train", "x", "--batch-size", "4"], "--batch N"),
        (["train", "x", "--output_dir", "y"], "it is --out"),
        (["train", "x", "--prompt", "y"], "it is an option of markovae sample, markovae edit"),
        (["train", "x", "--num_samples", "4"], "it is --n N of markovae sample"),
        (["sample", "x", "--cfg", "4"], "it is --guidance W"),
        (["sample", "x", "--num_inference_steps", "4"], "it is --steps N"),
        (["sample", "x", "--scheduler", "ddim"], "--sampler NAME"),
        (["sample", "x", "--strength", ".4"], "markovae edit --from-level F"),
        (["sample", "x", "--resolution", "4"], "it is set in training, data.size"),
        (["train", "x", "--fid"], "markovae quality RUN"),
        (["train", "x", "--resume_from_checkpoint", "latest"], "it is --resume, with --out RUN"),
        (["train", "x", "--resume_checkpoint=ema.pt"], "it is --resume with --out RUN; --init RUN starts a new run"),
        (["train", "x", "--weight_decay", "0"], "it is a setting, --set train.weight_decay"),
        (["train", "x", "--dropout", ".1"], "it is a setting, --set network.dropout"),
        (["sample", "x", "--optimizer", "adam"], "it is set in training, train.optimizer"),
        (["train", "x", "--duration", "1"], "images seen = steps * train.batch"),
        (["train", "x", "--use_fp16", "True"], "--precision float32 or bfloat16"),
        (["sample", "x", "--timestep_respacing", "ddim25"], "it is --steps N"),
        (["sample", "x", "--S_churn", "40"], "each sampler has its own noise"),
        (["edit", "x", "a.png", "--invert_mask"], "white is redrawn and black is kept: invert the mask's image"),
        (["train", "x", "--stpes", "3"], "did you mean --steps?"),
        (["train", "x", "--zzz"], "see markovae train --help"),
        (["generate", "x"], "did you mean sample?"),
        (["finetune", "x"], "did you mean train?"),
        (["smaple", "x"], "did you mean sample?"),
    ],
    ids=lambda value: value[1] if isinstance(value, list) else "",
)
def test_options_and_commands(words: list[str], hint: str):
    assert hint in said(*words)


@pytest.mark.parametrize(
    ("setting", "hint"),
    [
        ("target.name=epsilon", "did you mean noise?"),
        ("target.name=v_prediction", "did you mean velocity?"),
        ("target.name=x0", "did you mean data?"),
        ("target.name=zzz", "must be one of"),
        ("train.optimizer=Adam", "did you mean adamw?"),
        ("train.precision=bf16", "did you mean bfloat16?"),
        ("schedule.kind=squaredcos_cap_v2", "did you mean cosine?"),
        ("train.learning_rate=1", "the learning rates are train.lr"),
        ("resolution=64", "it is data.size"),
        ("train.epochs=3", "there are no epochs here"),
        ("train.zzz=3", "markovae train --settings lists them all"),
    ],
)
def test_settings_and_values(setting: str, hint: str):
    with pytest.raises(UserError) as caught:
        Config().with_settings([setting])
    assert hint in str(caught.value)
    assert ("did you mean" in hint) == ("did you mean" in str(caught.value))


def test_the_tables_name_what_there_is():
    known = set(names_of(Config))
    for text in WORDS.values():
        for word in text.replace(",", " ").replace("(", " ").replace(")", " ").split():
            if (
                word.partition(".")[0] in ("data", "train", "network", "schedule", "target", "condition")
                and "." in word
            ):
                assert word.partition("=")[0].rstrip(".,:") in known or word.endswith((".csv", ".jsonl")), word
    assert not WORDS.keys() & {name.rpartition(".")[2] for name in known} - {"betas", "lr", "name", "random_crop"}
    assert len({*WORDS, *VALUES, *COMMANDS}) > 150


def test_every_setting_is_listed_with_a_meaning_of_its_own(capsys):
    lines = settings_help().splitlines()
    heads = [line for line in lines if not line.startswith(" ")]
    assert [line.partition("=")[0] for line in heads] == names_of(Config)
    assert all(len(line) <= 118 for line in lines)
    assert all(len(line.split("  ", 1)[1].strip()) > 5 for line in heads)
    assert "where the source brings no split of its own." in " ".join(" ".join(lines).split()), "no text is cut"
    with pytest.raises(SystemExit, match="0"):
        command_line(["train", "--settings"])
    assert capsys.readouterr().out.splitlines() == lines


def test_settings_are_explained_by_docstrings_of_any_indentation() -> None:
    """Python 3.13 takes it away."""
    told = _entries(TrainConfig.__doc__ or "")
    assert len(told) > 20
    assert _entries(inspect.cleandoc(TrainConfig.__doc__ or "")) == told
