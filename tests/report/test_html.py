import numpy as np

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


def test_a_picture_says_its_size():
    assert 'width="3" height="2" alt="a"' in html.image(np.zeros((2, 3, 1), np.uint8), "a")


def test_tables_mark_numbers_and_meanings_and_keep_html():
    bar = html.Markup("<i>bar</i>")
    table = html.table(("", ""), [["1.0", bar], ["name", "why"]], numeric=(0,), meaning=1)
    assert "<thead>" not in table
    assert '<td class="n">1.0</td><td class="m"><i>bar</i></td>' in table
    assert '<td class="wide"><i>bar</i></td>' in html.table(("",), [[bar]], ())
    assert 'class="explained"' in table
    assert "<thead><tr><th>a</th></tr></thead>" in html.table(("a",), [], ())
