import base64
import io
import re

import numpy as np
import pytest
from PIL import Image

from markovae.report import html

BAD = '<b>"&'
ESCAPED = "&lt;b&gt;&quot;&amp;"


def test_texts_are_escaped_wherever_they_stand():
    picture = np.zeros((2, 3, 1), np.uint8)
    for piece in (
        html.paragraph(BAD),
        html.section(BAD),
        html.image(picture, BAD),
        html.figure(picture, "alt", (BAD,)),
        html.table((f"x{BAD}",), [[f"y{BAD}"]], ()),
        html.table(("",), [[BAD]], ()),
        html.headline([(BAD, "text")]),
        html.headline([("1", BAD)]),
    ):
        assert ESCAPED in piece
        assert BAD not in piece


def test_what_has_no_letter_and_what_turns_text_around_is_spelled():
    assert html.paragraph("r\udcfcn \u202egnp.\x1b[31m\nÄ", "k") == '<p class="k">r\\udcfcn \\u202egnp.\\x1b[31m\nÄ</p>'


@pytest.mark.parametrize(("side", "shown"), [(2, 16), (32, 256), (100, 700), (900, 900)])
def test_a_picture_repeats_its_pixels_and_says_its_size(side: int, shown: int):
    drawn = np.random.default_rng(0).integers(0, 256, (side, side, 3)).astype(np.uint8)
    text = html.image(drawn, "a")
    assert f'width="{shown}" height="{shown}" alt="a"' in text
    assert f"aspect-ratio:{shown}/{shown}" in text
    content = base64.b64decode(re.search(r"base64,([^\"]+)", text)[1])
    seen = np.asarray(Image.open(io.BytesIO(content)))
    assert (seen[:: shown // side, :: shown // side] == drawn).all()


def test_tables_mark_numbers_and_meanings_and_keep_html():
    bar = html.Markup("<i>bar</i>")
    table = html.table(("", ""), [["1.0", bar], ["name", "why"]], numeric=(0,), meaning=1)
    assert "<thead>" not in table
    assert '<td class="n">1.0</td><td class="m"><i>bar</i></td>' in table
    assert '<td class="wide"><i>bar</i></td>' in html.table(("",), [[bar]], ())
    assert 'class="explained"' in table
    assert "<thead><tr><th>a</th></tr></thead>" in html.table(("a",), [], ())
