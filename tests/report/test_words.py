import pytest

from markovae.report.words import TERMS, bound_in_words, change_in_words, codecs_in_words, meanings


@pytest.mark.parametrize(
    ("model", "codec", "text"), [(1.0, 4.0, "75% less than that"), (5.0, 4.0, "25% more than that")]
)
def test_changes(model: float, codec: float, text: str):
    assert change_in_words(model, codec) == text


def test_plain_storage_is_the_log_of_the_bins():
    assert "takes 8." in bound_in_words(256)
    assert "takes 4.09." in bound_in_words(17)


def test_what_the_codecs_were_given_is_said():
    assert "They were given" not in codecs_in_words(256)
    assert "pixel values 0…16 as 8-bit grey values" in codecs_in_words(17)
    assert "left out" in codecs_in_words(65536)


def test_every_figure_has_a_sentence():
    for bins in (17, 256, 65536):
        table = meanings(bins)
        assert {f"terms_bits_per_dim.{name}" for name in TERMS} <= set(table)
        assert {"bits_per_dim", "per_level", "codecs", "neighbours", "channels"} <= set(table)
        assert all(text[0].isupper() and text.endswith(".") for text in table.values())
