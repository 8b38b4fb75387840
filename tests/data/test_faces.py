from dataclasses import asdict, fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from markovae.data import faces
from markovae.data.faces import attributes, caption, short_caption

indices = st.integers(0, 2**70)
TABLES = {
    "background": faces.BACKGROUNDS,
    "skin": faces.SKINS,
    "hair": faces.HAIR,
    "hair_colour": faces.HAIR_COLOURS,
    "headwear": faces.HEADWEAR,
    "headwear_colour": faces.HEADWEAR_COLOURS,
    "eyes": faces.EYES,
    "mouth": faces.MOUTHS,
    "glasses": faces.GLASSES,
    "beard": faces.BEARDS,
    "beard_colour": faces.HAIR_COLOURS,
    "shirt": faces.SHIRTS,
}


@given(indices)
def test_every_value_is_in_its_table(index: int):
    for name, value in asdict(attributes(index)).items():
        if name != "variant":
            assert value in TABLES[name] or value in ("none", "hidden")


@given(indices)
def test_no_contradictory_pair(index: int):
    face = attributes(index)
    covered = face.headwear != "none"
    assert (face.hair == "hidden") == (face.hair_colour == "hidden") == covered
    assert (face.headwear_colour == "none") == (not covered)
    assert (face.hair_colour == "none") == (face.hair == "bald")
    assert (face.eyes == "hidden") == (face.glasses == "sunglasses")
    assert (face.beard == "none") == (face.beard_colour == "none")
    if face.headwear == "hijab" or face.hair in ("bun", "bob", "long"):
        assert face.beard == "none"
    if face.beard != "none" and face.hair_colour in faces.HAIR_COLOURS:
        assert face.beard_colour == face.hair_colour
    assert (face.skin, face.hair_colour) not in faces.INDISTINCT
    assert (face.skin, face.beard_colour) not in faces.INDISTINCT


@given(indices)
def test_the_caption_names_what_shows_and_nothing_else(index: int):
    face, text = attributes(index), caption(attributes(index))
    assert f"{face.skin} skin" in text
    assert f" {face.shirt} shirt on " in text
    assert text.endswith(f" {face.background} background")
    assert faces.MOUTH_WORDS[face.mouth] in text
    assert ("beard" in text) == (face.beard in ("short", "long"))
    assert ("moustache" in text) == (face.beard == "moustache")
    assert ("glasses" in text) == (face.glasses != "none")
    assert ("eyes" in text or "a wink" in text) == (face.eyes != "hidden")
    assert (" hair" in text or "afro" in text or "dreadlocks" in text or "bald" in text) == (face.hair != "hidden")
    for kind in set(faces.HEADWEAR) - {"none"}:
        assert (f" {face.headwear_colour} {kind}" in text) == (kind in text) == (kind == face.headwear)
    if face.beard != "none":
        assert face.beard_colour in text
    assert " a orange" not in text
    assert "none" not in text
    assert "hidden" not in text


@given(indices)
def test_a_short_caption_says_some_of_what_the_whole_one_says(index: int):
    found, text = faces.phrases(attributes(index)), short_caption(index)
    said = {name: phrase for name, phrase in found.items() if phrase in text}
    assert 1 <= len(said) < len(found)
    assert text == faces.sentence(said)


def test_short_captions_leave_out_as_much_as_they_say_and_nothing_more_than_the_rest():
    # 4,000 draws: five standard deviations of a share near 0.5 are 0.04.
    said = [(faces.phrases(attributes(index)), short_caption(index)) for index in range(4000)]
    for name in ("skin", "head", "mouth", "shirt", "background"):
        assert sum(found[name] in text for found, text in said) / 4000 == pytest.approx(0.5, abs=0.04)


def test_captions_tell_different_faces_apart():
    seen: dict[str, dict[str, object]] = {}
    for index in range(3000):
        face = asdict(attributes(index))
        face.pop("variant")
        assert seen.setdefault(caption(attributes(index)), face) == face


def test_every_value_of_every_table_occurs():
    drawn = [asdict(attributes(index)) for index in range(3000)]
    for field in fields(faces.Attributes):
        if field.name != "variant":
            assert set(TABLES[field.name]) <= {face[field.name] for face in drawn} | {"none"}, field.name


def test_draws_follow_their_weights():
    # 4,000 draws: five standard deviations of a share near 0.7 are 0.036.
    drawn = [attributes(index) for index in range(4000)]
    assert sum(face.headwear == "none" for face in drawn) / 4000 == pytest.approx(14 / 20, abs=0.037)
    assert sum(face.skin == "dark" for face in drawn) / 4000 == pytest.approx(1 / 5, abs=0.032)


def test_attributes_are_fixed_for_ever():
    assert attributes(0) == faces.Attributes(
        background="white",
        skin="light",
        hair="hidden",
        hair_colour="hidden",
        headwear="turban",
        headwear_colour="red",
        eyes="wide",
        mouth="frown",
        glasses="none",
        beard="none",
        beard_colour="none",
        shirt="red",
        variant=0,
    )
    assert caption(attributes(1)) == (
        "a face with light skin, shaggy silver hair, a short silver beard, wide eyes and a straight mouth, "
        "in a navy shirt on a lilac background"
    )


def test_a_negative_index_is_refused():
    with pytest.raises(ValueError, match="-1 must be 0 or more"):
        attributes(-1)


def test_values_are_those_that_faces_take_and_no_others():
    known = faces.values()
    assert list(known) == [field.name for field in fields(faces.Attributes) if field.name != "variant"]
    drawn = [asdict(attributes(index)) for index in range(3000)]
    for name, words in known.items():
        assert {face[name] for face in drawn} <= set(words), name
        assert set(TABLES[name]) <= set(words)
        assert len(set(words)) == len(words)
