import hashlib
import json
from importlib.resources import files

import numpy as np
import pytest
from dicebear import Avatar, Style
from hypothesis import given
from hypothesis.extra.numpy import arrays

from markovae.data import faces
from markovae.data.faces import attributes
from markovae.data.faceset import box_halve, components, options, render, svg
from markovae.errors import UserError

# SHA-256 of the (3, size, size) bytes: the same on every machine with the pinned packages.
FIXED = {
    (0, 32): "de0fda3f8f4e900eccb1084e8d99c0f1f736fd616820e9f63400c9d84cf6ec2c",
    (1, 32): "6ae083852425ea17a2e892760f7545d9b98551a637ef4ceb89fe56781e3bd40a",
    (2, 64): "ee01bc74afc7472894a9ee238d67ec5b1b5dd352c62750ff617f16b6a2db4eec",
    (11999, 32): "fb1f6614d2c4b8f6aac7eb83e4e68774bc38395b6f25acf3869249e0b22979c4",
    (123456789, 64): "6f3d51c0d911e787d54d84462fb09ebd2283b4653454e448cb5277be9770c66c",
}


@pytest.mark.parametrize(("index", "size"), FIXED)
def test_bytes_are_fixed(index: int, size: int):
    pixels = render(index, size)
    assert pixels.shape == (3, size, size)
    assert pixels.dtype == np.uint8
    assert hashlib.sha256(pixels.tobytes()).hexdigest() == FIXED[index, size]


def test_bytes_do_not_depend_on_what_was_drawn_before():
    order = [7, 3, 5, 3, 7]
    first = {index: render(index).tobytes() for index in (3, 5, 7)}
    assert [render(index).tobytes() for index in order] == [first[index] for index in order]


def test_the_layers_make_the_very_text_that_dicebear_composes():
    style = Style(json.loads(files("dicebear_styles").joinpath("avataaars.json").read_text("utf-8")))
    shown = set()
    for index in range(150):
        face = attributes(index)
        parts = components(face)
        asked = options(parts, faces.BACKGROUNDS[face.background], faces.SKINS[face.skin])
        assert svg(face) == str(Avatar(style, asked))
        shown |= {(layer, variant) for layer, variant, _ in parts}
    tops = {variant for layer, variant in shown if layer == "top"}
    assert tops == {top for tops in faces.HAIR.values() for top in tops} | set(faces.HEADWEAR.values()) - {""}


def test_every_colour_reaches_the_drawing():
    for index in range(150):
        face = attributes(index)
        colours = [colour for _, _, colour in components(face) if colour]
        colours += [faces.BACKGROUNDS[face.background], faces.SKINS[face.skin]]
        assert all(f'fill="{colour}"' in svg(face) for colour in colours)


@given(arrays(np.uint8, (3, 4, 6)))
def test_halving_is_the_mean_of_four_with_halves_rounded_up(pixels: np.ndarray):
    halved = box_halve(pixels)
    for c, y, x in np.ndindex(3, 2, 3):
        block = pixels[c, 2 * y : 2 * y + 2, 2 * x : 2 * x + 2].astype(int)
        assert halved[c, y, x] == int(np.floor(block.sum() / 4 + 0.5))


def test_thirty_two_is_the_halved_sixty_four():
    assert np.array_equal(render(12, 32), box_halve(render(12, 64)))


def test_the_background_is_flat_and_of_its_colour():
    for index in range(12):
        colour = faces.BACKGROUNDS[attributes(index).background]
        rgb = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
        pixels = render(index)
        assert (pixels == np.array(rgb, np.uint8)[:, None, None]).all(0).mean() > 0.2


@pytest.mark.parametrize("size", [16, 31, 257])
def test_other_sizes_are_refused(size: int):
    with pytest.raises(UserError, match=f"32 to 256 pixels, not {size}x{size}"):
        render(0, size)
