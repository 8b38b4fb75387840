"""The door *config*: config.toml and --set."""

import random

from tests.fuzz.conftest import Fuzzer

from markovae.config import Config
from markovae.tables import names_of

VALUES = (
    *("0", "-1", "1", "2", "7", "65", "1e308", "-1e308", "5e-324", "nan", "inf", "true", "none", "''", "'x'"),
    *("[]", "[1]", "[1, 2]", "[-1]", "[1e308]", "[[1]]", "{}", "{a = 1}", "9223372036854775807", "1979-05-27"),
    *(
        "9" * 30,
        "9" * 4299,
        "9" * 4301,
        "0x" + "f" * 9000,
        "[" * 2000,
        "'\\ud800'",
        "\udcff",
        "\ud800",
        "\x1b[2J",
        "\0",
    ),
)


def test_settings_and_files_of_any_content(fuzzer: Fuzzer):
    names = names_of(Config)

    def make(chance: random.Random) -> tuple[str, list[str]]:
        pairs = [(chance.choice(names), chance.choice(VALUES)) for _ in range(chance.choice((1, 1, 2, 3)))]
        if chance.random() < 0.1:
            pairs.append((chance.choice(("", ".", "train", "train.x" * 500, "\x1b]0;x", "network.ddpm")), "1"))
        way = chance.choice(("set", "file"))
        if way == "set":
            return way, [f"{name}={value}" for name, value in pairs]
        return way, ["\n".join(f"{name} = {value}" for name, value in pairs)]

    def door(case: tuple[str, list[str]]) -> None:
        way, texts = case
        if way == "set":
            config = Config().with_settings(texts)
        else:
            config = Config.parse(texts[0].encode("utf-8", "surrogatepass"))
        Config.parse(config.to_toml().encode())

    found = fuzzer("config", door, make)
    assert found.refused > found.accepted > 0
