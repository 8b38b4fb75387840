"""Small pieces of HTML; every text is escaped here."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import final

from markovae.console import printable
from markovae.report.pictures import Images, data_uri, png


@final
class Markup(str):
    """A table's cell that is HTML already; a `str` is text, whatever it begins with."""

    __slots__ = ()


def text_of(text: str) -> str:
    """A text as HTML: nothing in it is a tag, changes its direction or cannot be written in UTF-8."""
    return escape("\n".join(map(printable, text.split("\n"))))


def paragraph(text: str, kind: str = "meaning") -> str:
    """A sentence or two."""
    return f'<p class="{kind}">{text_of(text)}</p>'


def section(title: str, *parts: str) -> str:
    """A card with a heading."""
    return f"<section><h2>{text_of(title)}</h2>{''.join(parts)}</section>"


def image(picture: Images, alt: str) -> str:
    """A picture inside the page."""
    height, width = picture.shape[:2]
    return f'<img src="{data_uri(png(picture))}" width="{width}" height="{height}" alt="{text_of(alt)}">'


def figure(picture: Images, alt: str, caption: Sequence[str]) -> str:
    """A picture with lines below it."""
    lines = "<br>".join(map(text_of, caption))
    return f"<figure>{image(picture, alt)}<figcaption>{lines}</figcaption></figure>"


def strip(figures: Sequence[str]) -> str:
    """Figures side by side."""
    return f'<div class="strip">{"".join(figures)}</div>'


def table(head: Sequence[str], rows: Sequence[Sequence[str]], numeric: Sequence[int], meaning: int = -1) -> str:
    """Rows of texts; those of `Markup` span a narrow screen, as explanations do.

    Args:
        numeric: columns set to the right.   meaning: the column of explanations.
    """

    def cell(tag: str, column: int, text: str) -> str:
        wide = isinstance(text, Markup)
        name = "n" if column in numeric else "m" if column == meaning else "wide" if wide else ""
        kind = f' class="{name}"' if name else ""
        return f"<{tag}{kind}>{text if wide else text_of(text)}</{tag}>"

    def line(tag: str, texts: Sequence[str]) -> str:
        return f"<tr>{''.join(cell(tag, i, text) for i, text in enumerate(texts))}</tr>"

    body = "".join(line("td", row) for row in rows)
    kind = ' class="explained"' if meaning >= 0 else ""
    top = f"<thead>{line('th', head)}</thead>" if any(head) else ""
    return f'<div class="scroll"><table{kind}>{top}<tbody>{body}</tbody></table></div>'


def hero(entries: Sequence[tuple[str, str]]) -> str:
    """(figure, what it is) in large letters."""
    cells = "".join(f"<div><b>{text_of(figure)}</b><span>{text_of(text)}</span></div>" for figure, text in entries)
    return f'<div class="hero">{cells}</div>'
