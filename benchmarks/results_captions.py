"""The sections on the judge of faces and on images from captions. Records: attributes.json by attributes.py,
captions_*.json by captions.py and two_stage_*.json by two_stage.py."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from results_common import Section, percents, plus_minus, share, signed, table

PREFIXES = ("captions_", "two_stage_")
GOAL = 0.99
NONE_OF = 3.0  # −ln 0.05: the upper 95 % limit of a mean count of which none was seen
CONFUSIONS = 6


def section(records: Mapping[str, Any]) -> Section | None:
    made = {name: record for name, record in records.items() if name.startswith(PREFIXES)}
    parts = [_judge(records["attributes"])] if "attributes" in records else []
    if made:
        parts += [_attributes(made), *(_about(name, record) for name, record in made.items())]
    return Section("\n".join(["## From caption to face\n", *parts])) if parts else None


def _judge(record: Mapping[str, Any]) -> str:
    spoilt = record["spoilt"]
    rows = [
        [_words(name), *(share(each[name], record["n"]) for each in (record["accuracy"], *spoilt.values()))]
        for name in record["accuracy"]
    ]
    below = [_words(name) for name, found in record["accuracy"].items() if found["mean"] < GOAL]
    verdict = f"Below {100 * GOAL:.0f} %: {', '.join(below)}." if below else f"All are at {100 * GOAL:.0f} % or above."
    if not record["confusions"]:
        verdict += f" None of {record['n']:,} is wrong: 95 % limit of an error {100 * NONE_OF / record['n']:.1f} %."
    told = [
        f"{_words(c['attribute'])}: {c['shown']} told as {c['told']} ({c['times']} of {c['of']})"
        for c in record["confusions"][:CONFUSIONS]
    ]
    return (
        "### The judge\n\n"
        f"A small network that tells each attribute of a face at 32 pixels, on {record['n']:,} drawn test faces; it "
        f"learnt from {record['recipe']['faces']:,} others. By `python benchmarks/attributes.py`.\n\n"
        + table(["attribute", "right", *(f"under {name}" for name in spoilt)], rows)
        + f"\n{verdict}{' Its most frequent errors: ' if told else ''}{'; '.join(told)}\n"
    )


def _attributes(made: Mapping[str, Any]) -> str:
    names = list(next(iter(made.values()))["test"]["accuracy"])
    tests = [record["test"] for record in made.values()]
    rows = [[_words(name), *(share(test["accuracy"][name], test["n"]) for test in tests)] for name in names]
    rows.append(["mean of all", *(share(test["all"], test["n"]) for test in tests)])
    rows.append(["mean of the eight that 32 pixels show", *(share(test["claimed"], test["n"]) for test in tests)])
    return (
        "### Attributes asked for and shown\n\n"
        "The share of images, one a caption of a test face, in which the judge sees what the caption says (an "
        "attribute that the caption leaves out must be absent).\n\n"
        + table(["attribute", *(f"`{name}`" for name in made)], rows)
    )


def _about(name: str, record: Mapping[str, Any]) -> str:
    distance = record["kid"]
    limit = signed(1000 * distance["excess"]["limit"], 2)
    parts = [
        f"### {name}\n",
        f"{record['how']}\n" if "how" in record else _how(record),
        f"KID × 1000: {_thousand(distance['captioned'])} with captions, {_thousand(distance['plain'])} without; "
        f"training images get {_thousand(distance['floor'])}. KID − 1.1 × KID without captions: "
        f"{_thousand(distance['excess'])}, upper 95 % limit {limit}.\n",
    ]
    if "decoder_alone" in record:
        parts.append(_stages(record))
    if "unseen" in record:
        parts.append(_unseen(record))
    return "\n".join([*parts, _paraphrases(name, record)])


def _stages(record: Mapping[str, Any]) -> str:
    enlarged = record["enlarged"]
    return (
        "Of the eight attributes that 32 pixels show, in the mean: "
        f"{percents(record['test']['claimed'])} by the whole chain; {percents(record['prior_alone']['claimed'])} by "
        "the prior alone, its embeddings read by the judge itself; "
        f"{percents(record['decoder_alone']['claimed'])} by the decoder alone, given what the judge sees in the face "
        "that the caption was written for; and "
        f"{percents(enlarged['claimed'])} of {enlarged['n']:,} images enlarged to 64 pixels and halved again, which "
        f"then differ by {enlarged['rms_grey_values']:.1f} grey values.\n"
    )


def _how(record: Mapping[str, Any]) -> str:
    plain = f" --plain {record['plain']}" if record["plain"] else ""
    return (
        f"Model `{record['checkpoint']['digest']}` ({record['checkpoint']['step']:,} steps), `{record['sampler']}` in "
        f"{record['steps']} calls, guidance {record['guidance']:g}, {record['test']['n']:,} test captions. By "
        f"`python benchmarks/captions.py RUN{plain} --guidance {record['guidance']:g}`.\n"
    )


def _unseen(record: Mapping[str, Any]) -> str:
    found = record["unseen"]["combinations"]
    rows = [
        [
            row["combination"],
            *(share(row[side], n) for side, n in zip(("unseen", "seen"), row["n"], strict=True)),
        ]
        for row in found["rows"]
        if row["unseen"] and row["seen"]
    ]
    loss = "" if found["loss"] is None else f" In the mean {percents(found['loss'])} are lost.\n"
    return (
        "Combinations that no training face shows: how often the two values are right together, and how often each is "
        f"in other company.{loss}\n" + table(["held out of training", "together", "apart"], rows)
    )


def _paraphrases(name: str, record: Mapping[str, Any]) -> str:
    rows = [[f"“{row['text']}”", _meant(row["means"]), share(row["all"], row["n"], 0)] for row in record["paraphrases"]]
    mean = sum(row["all"]["mean"] for row in record["paraphrases"]) / len(rows)
    return (
        f"Words that no caption uses, {100 * mean:.0f} % right in the mean ([sheet](results/{name}.png), a row each):"
        "\n\n" + table(["asked for", "means", "right"], rows)
    )


def _meant(means: Mapping[str, list[str]]) -> str:
    return ", ".join(f"{_words(name)} {' or '.join(allowed)}" for name, allowed in means.items())


def _words(name: str) -> str:
    return name.replace("_", " ")


def _thousand(figure: Mapping[str, float]) -> str:
    return plus_minus({name: 1000 * figure[name] for name in ("mean", "stderr")}, 2)
