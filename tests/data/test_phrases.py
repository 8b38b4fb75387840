from collections import Counter

import pytest

from markovae.data.faces import SWAPPED, Attributes, attributes, caption, phrases, read_face, sentence, swaps

FACES = [attributes(i) for i in range(400)]


def test_every_caption_is_read_again():
    for face in FACES:
        found = read_face(caption(face))
        assert found is not None
        assert caption(found) == caption(face)
        for name in ("background", "skin", "hair", "hair_colour", "headwear", "glasses", "eyes", "mouth", "beard"):
            assert getattr(found, name) == getattr(face, name), (name, caption(face))


@pytest.mark.parametrize(
    "text", ["", "a dog", "a face with pale skin", caption(FACES[0]).replace("skin", "fur"), caption(FACES[0]) + "."]
)
def test_another_text_is_none_of_them(text: str):
    assert read_face(text) is None


def test_phrases_left_out_leave_a_sentence():
    shown = "yellow light short brown none none closed".split()  # noqa: SIM905
    face = Attributes(*shown, "gentle smile", "round", "none", "none", "navy", 0)
    said = phrases(face)
    assert sentence(said) == (
        "a face with light skin, short brown hair, round glasses, closed eyes and a gentle smile, in a navy shirt on a "
        "yellow background"
    )
    without = {name: sentence({k: v for k, v in said.items() if k != name}) for name in said}
    assert without["mouth"].startswith("a face with light skin, short brown hair, round glasses and closed eyes, in a ")
    assert without["shirt"].endswith("a gentle smile, on a yellow background")
    assert without["background"].endswith("in a navy shirt")
    assert sentence({"mouth": "a frown"}) == "a face with a frown"
    assert (
        sentence({"shirt": "a red shirt", "background": "a blue background"})
        == "a face in a red shirt on a blue background"
    )


def test_swaps_change_one_attribute_and_what_must_follow():
    sizes: dict[str, Counter[int]] = {name: Counter() for name in SWAPPED}
    for face in FACES[:60]:
        for name in SWAPPED:
            made = swaps(face, name)
            texts = [caption(other) for other in made]
            assert texts[0] == caption(face)
            assert len(set(texts)) == len(texts)
            sizes[name][len(texts)] += 1
            follows = {"hair_colour": {"beard_colour"}, "glasses": {"eyes"}, "beard": {"beard_colour"}}.get(name, set())
            for other in made[1:]:
                changed = {key for key in vars(face) if getattr(face, key) != getattr(other, key)}
                assert name in changed
                assert changed <= {name} | follows
                assert read_face(caption(other)) is not None
    assert sizes["background"] == {5: 60}
    assert sizes["mouth"] == {6: 60}
    assert max(sizes["hair"]) == 9
    assert set(sizes["headwear_colour"]) == {1, 5}
    assert max(sizes["hair_colour"]) == 6
    assert max(sizes["beard"]) == 4
    assert max(sizes["glasses"]) == 4
