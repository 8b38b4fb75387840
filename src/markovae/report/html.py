"""How report.html looks: light and dark, wide and narrow, enlarged and printed."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import final

from markovae.data.pictures import Images, data_uri, png
from markovae.log import printable

STYLE = """\
:root { color-scheme: light dark; --ink: #1c2430; --soft: #5a6675; --paper: #f7f8fa; --card: #ffffff; --edge: #e1e5ea;
  --accent: #2f6fdb; --band: #2f6fdb33; --warn: #c77700; }
@media screen and (prefers-color-scheme: dark) {
  :root { --ink: #e6eaf0; --soft: #9aa7b6; --paper: #12161c; --card: #1b212a; --edge: #2c3541; --accent: #7fb0ff;
    --band: #7fb0ff33; --warn: #f0a63c; }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.55 system-ui, -apple-system, "Segoe UI",
  Roboto, "Helvetica Neue", "DejaVu Sans", sans-serif; }
main { max-width: 1040px; margin: 0 auto; padding: 28px 16px 60px; }
.warning { border-left: 4px solid var(--warn); padding-left: 12px; }
header p, .meaning, figcaption, footer { color: var(--soft); }
h1 { font-size: 1.7rem; margin: 0 0 2px; letter-spacing: -0.01em; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 0 0 4px; }
section { background: var(--card); border: 1px solid var(--edge); border-radius: 12px; padding: 18px 20px;
  margin-top: 18px; min-width: 0; }
p { margin: 4px 0 12px; max-width: 74ch; }
section > :last-child { margin-bottom: 0; }
.hero { display: grid; grid-template-columns: repeat(auto-fit, minmax(200px, 1fr)); gap: 14px; margin-top: 18px; }
.hero div { background: var(--card); border: 1px solid var(--edge); border-radius: 12px; padding: 14px 18px; }
.hero b { display: block; font-size: 1.55rem; line-height: 1.25; letter-spacing: -0.01em; }
.hero span { color: var(--soft); font-size: 0.9rem; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(430px, 100%), 1fr)); gap: 18px; }
.pair section { margin-top: 0; }
.pair { margin-top: 18px; }
img { image-rendering: pixelated; display: block; width: 100%; height: auto; border-radius: 4px; }
.drawing { max-width: 560px; }
.sheet { max-width: 720px; margin: 0 auto 12px; }
.strip { display: flex; gap: 6px; overflow-x: auto; padding: 3px 3px 6px; margin: -3px -3px 12px; }
.strip figure { margin: 0; flex: 1 0 76px; max-width: 132px; }
summary { list-style: none; cursor: zoom-in; }
summary::-webkit-details-marker { display: none; }
summary:focus-visible { outline: 3px solid var(--accent); outline-offset: 2px; border-radius: 4px; }
summary span { display: none; }
@media screen {
  :root:has(details[open]) { overflow: hidden; }
  [open] > summary { position: fixed; inset: 0; z-index: 1; display: flex; flex-direction: column; gap: 10px;
    align-items: center; justify-content: center; padding: 16px; background: var(--paper); cursor: zoom-out; }
  [open] > summary:focus-visible { outline-offset: -3px; }
  [open] > summary img { flex: 0 1 auto; min-height: 0; width: 94vw; height: 80vh; object-fit: contain; }
  [open] > summary span { display: block; max-width: 74ch; text-align: center; }
  [open] > summary span + span { color: var(--soft); font-size: 0.85rem; }
}
figcaption { font-size: 0.78rem; line-height: 1.3; text-align: center; margin-top: 5px;
  font-variant-numeric: tabular-nums; }
.scroll { overflow-x: auto; margin-bottom: 12px; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: 7px 12px 7px 0; border-bottom: 1px solid var(--edge); vertical-align: top; }
td.n, th.n { text-align: right; white-space: nowrap; }
th { font-weight: 600; color: var(--soft); font-size: 0.85rem; }
tr:last-child td { border-bottom: 0; }
td.m { color: var(--soft); font-size: 0.92rem; }
.bar { position: relative; height: 8px; border-radius: 4px; background: var(--soft); opacity: 0.55; min-width: 2px; }
.bar.own { background: var(--accent); opacity: 1; }
svg { display: block; width: 100%; height: auto; margin-bottom: 10px; }
svg text { fill: var(--soft); font-size: 13px; font-variant-numeric: tabular-nums; }
svg .title { fill: var(--ink); }
svg .grid { stroke: var(--edge); stroke-width: 1; }
svg .line { fill: none; stroke: var(--accent); stroke-width: 2; stroke-linejoin: round; }
svg .faint { fill: none; stroke: var(--soft); stroke-width: 1; opacity: 0.5; }
svg .band { fill: var(--band); }
svg .dot { fill: var(--accent); }
footer { font-size: 0.85rem; margin-top: 22px; }
td .bar { margin-top: 8px; } td.wide { min-width: 90px; }
@media (max-width: 560px) { section { padding: 14px; } main { padding: 18px 10px 40px; }
  th, td { font-size: 0.92rem; padding-right: 8px; } th:last-child, td:last-child { padding-right: 0; }
  .explained tr { display: grid; grid-template-columns: 1fr auto; column-gap: 12px; padding: 6px 0;
    border-bottom: 1px solid var(--edge); }
  .explained tr:last-child { border-bottom: 0; }
  .explained th, .explained td { border-bottom: 0; padding: 1px 0; }
  .explained thead .m { display: none; }
  .explained td.m, .explained td.wide { grid-column: 1 / -1; font-size: 0.88rem; }
  td .bar { margin: 4px 0; } svg text { font-size: 17px; } }
@media print {
  :root { color-scheme: light; --soft: #444444; --paper: #ffffff; }
  @page { margin: 15mm; }
  body { font-size: 10.5pt; }
  main { max-width: none; padding: 0; }
  section, .hero div { border-radius: 0; border-width: 1px 0 0; padding: 8px 0 0; margin-top: 12px; }
  .pair section, .hero, table, .strip, svg, img { break-inside: avoid; }
  h2 { break-after: avoid; }
  .strip { overflow: visible; }
  .strip figure { flex: 1 1 0; min-width: 0; max-width: 30mm; }
  .scroll { overflow: visible; }
  .sheet { max-width: 130mm; }
  .bar, svg { print-color-adjust: exact; }
}
"""

CLOSE = "Click, or press Enter, to close."
SHOWN = (
    640  # pixels that an enlarged picture has at least, so that a viewer which smooths pixels, or a printer, shows them
)
MOST_REPEATED = 8


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


def image(picture: Images, says: str) -> str:
    """A picture inside the page, which fills the window when it is clicked, without a script.

    Args:
        picture: (H, W, C), small: each pixel is repeated up to eight times.
        says: what it shows, a sentence.
    """
    factor = min(MOST_REPEATED, -(-SHOWN // max(picture.shape[:2])))
    large = picture.repeat(factor, 0).repeat(factor, 1)
    height, width = large.shape[:2]
    # The ratio keeps the place of a picture that has left it to fill the window.
    return (
        f'<details name="enlarged" style="aspect-ratio:{width}/{height}"><summary>'
        f'<img src="{data_uri(png(large))}" width="{width}" height="{height}" alt="{text_of(says)}">'
        f'<span aria-hidden="true">{text_of(says)}</span><span>{CLOSE}</span></summary></details>'
    )


def figure(picture: Images, says: str, caption: Sequence[str]) -> str:
    """A picture with short lines below it; enlarged, it has the sentence instead."""
    lines = "<br>".join(map(text_of, caption))
    return f"<figure>{image(picture, says)}<figcaption>{lines}</figcaption></figure>"


def strip(figures: Sequence[str]) -> str:
    """Figures side by side."""
    return f'<div class="strip">{"".join(figures)}</div>'


def table(head: Sequence[str], rows: Sequence[Sequence[str]], numeric: Sequence[int], meaning: int = -1) -> str:
    """Rows of texts; those of `Markup` span a narrow screen, as explanations do.

    Args:
        numeric: columns set to the right.
        meaning: the column of explanations.
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


def headline(entries: Sequence[tuple[str, str]]) -> str:
    """(figure, what it is) in large letters."""
    cells = "".join(f"<div><b>{text_of(figure)}</b><span>{text_of(text)}</span></div>" for figure, text in entries)
    return f'<div class="hero">{cells}</div>'
