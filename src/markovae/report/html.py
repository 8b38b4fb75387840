"""Small pieces of HTML; every text is escaped here."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from markovae.report.pictures import Images, data_uri, png


def paragraph(text: str, kind: str = "meaning") -> str:
    """A sentence or two."""
    return f'<p class="{kind}">{escape(text)}</p>'


def section(title: str, *parts: str) -> str:
    """A card with a heading."""
    return f"<section><h2>{escape(title)}</h2>{''.join(parts)}</section>"


def image(picture: Images, alt: str) -> str:
    """A picture inside the page."""
    height, width = picture.shape[:2]
    return f'<img src="{data_uri(png(picture))}" width="{width}" height="{height}" alt="{escape(alt)}">'


def figure(picture: Images, alt: str, caption: Sequence[str]) -> str:
    """A picture with lines below it."""
    lines = "<br>".join(map(escape, caption))
    return f"<figure>{image(picture, alt)}<figcaption>{lines}</figcaption></figure>"


def strip(figures: Sequence[str]) -> str:
    """Figures side by side."""
    return f'<div class="strip">{"".join(figures)}</div>'


def table(head: Sequence[str], rows: Sequence[Sequence[str]], numeric: Sequence[int], meaning: int = -1) -> str:
    """Rows of texts; those that begin with "<" are HTML already, and span a narrow screen, as explanations do.

    Args:
        numeric: columns set to the right.   meaning: the column of explanations.
    """

    def cell(tag: str, column: int, text: str) -> str:
        wide = text.startswith("<")
        name = "n" if column in numeric else "m" if column == meaning else "wide" if wide else ""
        kind = f' class="{name}"' if name else ""
        return f"<{tag}{kind}>{text if wide else escape(text)}</{tag}>"

    def line(tag: str, texts: Sequence[str]) -> str:
        return f"<tr>{''.join(cell(tag, i, text) for i, text in enumerate(texts))}</tr>"

    body = "".join(line("td", row) for row in rows)
    kind = ' class="explained"' if meaning >= 0 else ""
    top = f"<thead>{line('th', head)}</thead>" if any(head) else ""
    return f'<div class="scroll"><table{kind}>{top}<tbody>{body}</tbody></table></div>'


def hero(entries: Sequence[tuple[str, str]]) -> str:
    """(figure, what it is) in large letters."""
    cells = "".join(f"<div><b>{escape(figure)}</b><span>{escape(text)}</span></div>" for figure, text in entries)
    return f'<div class="hero">{cells}</div>'
