"""A quality record in words: each number with its floor and what it means."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from markovae.cli.output import table

if TYPE_CHECKING:
    from markovae.quality.quality_record import Quality


def difference(found: Quality, earlier: Mapping[str, Any], varying: Sequence[str]) -> dict[str, Any]:
    """KID of this record less that of the earlier one, with the error of independent figures."""
    from markovae.quality.quality_record import compare

    less = compare(found, earlier, varying)
    return {"kid_difference": less.value, "stderr": less.stderr, "ci95": list(less.ci95)}


def describe(record: Mapping[str, Any]) -> str:
    """The record as a person reads it."""
    shown = record["conditions"]
    drawn = "given"
    if shown["sampler"] is not None:
        twice = "" if shown["guidance"] in (None, 1) else ", twice where guided"
        drawn = f"{shown['sampler']}, {shown['steps']} network evaluations each{twice}, seed {shown['seed']}"
    lines = [
        f"KID {_error(record['kid'])}, floor {_error(record['kid_floor'])}: {_verdict(record['kid_excess'])}",
        f"{shown['n']:,} samples ({drawn}) against {_reference(record)}; extractor {shown['extractor']}",
        "",
        table([("", "samples", "floor", ""), *_rows(record)]),
        "",
        *(
            []
            if record["data"]["matches_run"] or record["checkpoint"] is None
            else [_not_its_own(record["data"]["source"])]
        ),
        *domain_in_words(record),
        memorization_in_words(record["memorisation"], shown["n"]),
    ]
    if "compared" in record:
        compared = record["compared"]
        lines.append(_compared_sentence(compared))
    lines.append(f"{record['seconds']:.0f} s")
    return "\n".join(lines)


def _rows(record: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    shares, floors = record["precision_recall"], record["precision_recall_floor"]
    memory = record["memorisation"]
    n, dims = record["conditions"]["n"], record["dims"]
    few = f"; n is below the {dims} features, so read it against its floor only" if n <= dims else ""
    rows = [
        ("KID", _error(record["kid"]), _error(record["kid_floor"]), "kernel distance: 0 for equal populations, any n"),
        (
            "Fréchet distance",
            _figure(record["frechet_distance"]),
            _figure(record["frechet_distance_floor"]),
            f"between fitted Gaussians; compare at equal n only{few}",
        ),
    ]
    meanings = {
        "precision": "samples that lie among real images",
        "recall": "real images that lie among samples: falls where kinds of image are missing",
        "density": "real neighbourhoods over a sample, 1 for equal populations",
        "coverage": "real images with a sample near",
    }
    rows += [(name, f"{shares[name]:.3f}", f"{floors[name]:.3f}", meaning) for name, meaning in meanings.items()]
    rows.append(
        (
            "nearest training image",
            f"{memory['samples_median']:.1f}",
            f"{memory['heldout_median']:.1f}",
            "median distance in grey levels of 255; beside it that of images not trained on",
        )
    )
    return rows


def _verdict(excess: Mapping[str, Any]) -> str:
    low, high = excess["ci95"]
    if low > 0:
        return f"the samples are {_error(excess)} farther from held-out images than training images are"
    if high < 0:
        return f"the samples are nearer to held-out images than training images are ({_error(excess)}), which asks why"
    return "the samples cannot be told from training images at this n"


def domain_in_words(record: Mapping[str, Any]) -> list[str]:
    """A warning for each figure that does not notice spoilt real images."""
    check, extractor = record["extractor_check"], record["conditions"]["extractor"]
    lines = []
    if blind := check["precision_blind_to"]:
        figures = ", ".join(f"{name} {check[name]['precision']:.3f}" for name in blind)
        lines.append(
            f"warning: precision by {extractor} does not fall for {' or '.join(blind)} real images ({figures}; as they "
            f"are {check['precision']:.3f}; {check['n']:,} images): it does not show such faults; read KID and recall"
        )
    if blind := check["kid_blind_to"]:
        lines.append(
            f"warning: KID by {extractor} does not rise for {' or '.join(blind)} real images ({check['n']:,} of them): "
            "such faults are not seen at this n"
        )
    if lines and check["image_kind"] == "photographic" and extractor == "small":
        lines[-1] += "; for photographs take --extractor lite0 (pip install 'markovae[quality]')"
    return lines


def memorization_in_words(memory: Mapping[str, Any], n: int) -> str:
    """Whether samples copy training images.

    Args:
        memory: as in the record of `Quality.to_dict`.
        n: samples.
    """
    share, copies = memory["nearer"], memory["copies"]
    low, high = share["ci95"]
    if low > 0.5 or copies:
        verdict = "Memorization: samples lie nearer to training images than held-out images do"
        verdict = verdict if low > 0.5 else "Memorization: some samples are copies"
    elif high < 0.5:
        verdict = "No memorization: samples lie farther from the training images than held-out images do"
    else:
        verdict = "No memorization: samples lie as far from the training images as held-out images do"
    text = (
        f"{verdict}. A sample is the nearer of the two with probability {_error(share)}: 0.5 and below is good, 1 is "
        f"copying. {memory['suspicious']} of {n:,} lie nearer than 99 % of the held-out images (about "
        f"{memory['expected']:.0f} by chance); "
    )
    if not copies:
        return f"{text}none is a copy of the {memory['searched']:,} training images searched."
    pairs = [f"{_sample(pair)} of {_training(pair)}" for pair in memory["nearest"][: min(copies, 3)]]
    more = ", …" if copies > len(pairs) else ""
    return f"{text}{copies} are copies of a training image within one grey level ({', '.join(pairs)}{more})."


def _sample(pair: Mapping[str, Any]) -> str:
    return pair["file"] or f"sample {pair['sample']}"


def _training(pair: Mapping[str, Any]) -> str:
    return pair["train_file"] or f"training image {pair['train_index']}"


def _not_its_own(source: str) -> str:
    return (
        f"The run was not trained on this split of {source}: the training images below are those of the split, which "
        "it may never have seen."
    )


def _compared_sentence(compared: Mapping[str, Any]) -> str:
    low, high = compared["ci95"]
    what = "no difference beyond the errors" if low <= 0 <= high else "better" if high < 0 else "worse"
    value, error = compared["kid_difference"], compared["stderr"]
    return f"KID less that of {compared['file']}: {value:+.4f} ± {error:.4f}, {what}."


def _reference(record: Mapping[str, Any]) -> str:
    count = f"{record['conditions']['reference_n']:,}"
    if record["against"]:
        return f"{count} images of {record['against']}"
    return f"{count} held-out images of {record['data']['source']}"


def _error(found: Mapping[str, Any]) -> str:
    return f"{found['value']:.4f} ± {found['stderr']:.4f}"


def _figure(value: float | None) -> str:
    return "none" if value is None else f"{value:.2f}"
