"""Commands, options, help; and what is said of those that do not exist."""

import re
import shlex

import pytest

from markovae import __version__
from markovae.cli.entry import COMMANDS, command_line, main, module_of, parser_of
from markovae.cli.train import run as run_train
from markovae.errors import UserError


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_explains_itself_within_a_terminal(name, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    assert main([name, "--help"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"usage: markovae {name}")
    assert f"  markovae {name}" in out, "an example"
    assert max(map(len, out.splitlines())) <= 118
    options = [line for line in out.splitlines() if line.startswith("  --")]
    assert options


def test_each_command_that_opens_a_run_takes_the_networks_that_may_be_imported():
    named = {name: {action.dest for action in command._actions} for name, command in parser_of(COMMANDS)[1].items()}
    opens = {name for name, names in named.items() if {"run_path", "model"} & names}
    assert len(opens) >= 9
    assert not [name for name in opens if "trust" not in named[name]]


@pytest.mark.parametrize("name", COMMANDS)
def test_each_example_of_the_help_is_a_command_line_as_it_stands(name):
    lines = [line.strip() for line in module_of(name).EXAMPLES.splitlines()]
    commands = [line.partition("markovae ")[2] for line in lines if re.match("(markovae|torchrun) ", line)]
    assert commands
    for command in commands:
        command_line(shlex.split(re.split(" [>|] ", command)[0], comments=True))


def test_the_commands_are_listed_with_the_exit_codes(capsys):
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(f"    {name}" in out for name in COMMANDS)
    assert "130/143" in out


@pytest.mark.parametrize("words", [["--version"], ["train", "--version"]])
def test_the_version(words, capsys):
    assert main(words) == 0
    assert capsys.readouterr().out == f"markovae {__version__}\n"


def test_nothing_asked_shows_the_help_as_bad_usage(capsys):
    assert main([]) == 2
    assert "start here" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["trian", "digits"], "there is no command 'trian'.*did you mean train"),
        (["--json"], "name a command before --json"),
        (["train", "digits", "--out", "x", "--stpes", "3"], "no option --stpes; did you mean --steps"),
        (["train", "digits", "--out", "x", "--step=3"], "no option --step; did you mean --steps"),
        (["sample", "x", "--zzzz"], "no option --zzzz; see markovae sample --help"),
        (["sample"], "RUN is missing"),
        (["measure", "run", "digits", "more"], "does not take 'more' as well"),
        (["train", "digits", "--out", "x", "--steps", "0"], "--steps: 0 must be at least 1"),
        (["train", "digits", "--out", "x", "--steps", "ten"], "--steps: 'ten' must be a whole number"),
        (["train", "digits", "--out", "x", "--minutes", "-3"], "--minutes: '-3' must be a number above 0"),
        (["train", "digits", "--out", "x", "--minutes", "nan"], "--minutes: 'nan' must be a number above 0"),
        (["train", "digits", "--out", "x", "--minutes", "3", "--steps", "4"], "not allowed with"),
        (["train", "digits", "--out", "x", "--precision", "bfloat"], "'bfloat' must be one of .*mean bfloat16"),
        (["measure", "x", "--split", "tset"], "'tset' must be one of .*did you mean test"),
        (["measure", "x", "--draws", "0"], "--draws: 0 must be at least 1"),
        (["measure", "x", "--draws", "every"], "'every' must be a whole number"),
        (["demo", "--minutes", "0"], "'0' must be a number above 0"),
        (["train", "faces", "--outt", "x"], "markovae train has no option --outt; did you mean --out"),
        (["sample", "--stepps=5"], "markovae sample has no option --stepps; did you mean --steps"),
    ],
)
def test_what_is_not_offered_is_one_sentence_that_names_the_nearest(words, said):
    with pytest.raises(UserError, match=said):
        command_line(words)


def test_options_are_read():
    options = command_line(["measure", "runs/a", "digits", "--draws", "all", "--limit", "5", "--json"])
    assert (options.run_path, options.data, options.draws, options.limit) == ("runs/a", "digits", "all", 5)
    assert options.json
    assert options.seed == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["train", "digits"], "--out is missing; see markovae train --help"),
        (["train", "--resume"], "--out is missing; see markovae train --help"),
        (["train", "--resume", "nowhere-at-all"], "nowhere-at-all is not a run"),
    ],
)
def test_a_run_to_train_is_named_by_out_or_behind_resume(words, said):
    with pytest.raises(UserError, match=said):
        run_train(command_line(words))
