"""Hooks of mkdocs.yml: the reference pages, made from the code, and equations as MathML that needs no script.

`make docs` builds the site into site/. The pages of docs/ are read as they are; what is made here is written nowhere.
"""

from __future__ import annotations

import html
import io
import os
import re
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import nbformat
from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

import markovae
from markovae.cli.entry import COMMANDS, main

ROOT = Path(__file__).resolve().parents[1]
LONG = 70  # signs of LaTeX in a line of text that may be wider than a phone
# A table that is painted before its last row is read moves its columns; this element is the last of a page.
WHOLE = '<link rel="expect" href="#__config" blocking="render">'
FOREIGN = "https://unpkg.com/iframe-worker/shim"
RANKS = {
    "answers.md": 3,
    "derivation.md": 2,
    "photos.md": 2,
    "architecture.md": 0.3,
    "reference/python.md": 0.6,
}  # in the search
GROUPS = {
    "Train": ("train", "resume", "distill", "create", "fit", "TrainStep", "EMA", "Objective", "Config"),
    "Models": ("load", "load_run", "LoadedRun", "save", "Diffusion", "MarkovianVAE", "Condition", "with_reverse"),
    "Data": ("load_data", "inspect"),
    "Sample": ("sample", "edit", "Edit", "grid"),
    "Measure": (
        "measure",
        "Measurement",
        "compare",
        "Comparison",
        "Bound",
        "continuous_bound",
        "ode_likelihood",
        "caption_information",
        "rank_anomalies",
        "AnomalyRanking",
    ),
    "Judge samples": ("evaluate", "Quality"),
    "Move models": ("export", "import_run", "wrap"),
    "Compress": ("compress", "decompress"),
}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the reference pages, and the sources and examples that pages link to."""
    made = {"reference/python.md": python_reference(), "reference/commands.md": command_reference()}
    pages = [path for path in (ROOT / "docs").rglob("*.md") if "solutions" not in path.parts]
    for name in sorted({name for page in pages for name in linked_sources(page)}):
        made[f"source/{name}.md"] = source_page(name)
    for path in sorted((ROOT / "docs" / "course").glob("*.ipynb")):
        files.remove(files.src_uris[f"course/{path.name}"])
        made[f"course/{path.stem}.md"] = notebook_page(path)
    for name, text in made.items():
        files.append(File.generated(config, name, content=text))
    return files


def linked_sources(page: Path) -> set[str]:
    """The files outside docs/ that a page links to, relative to the root; folders are not among them."""
    targets = re.findall(r"\]\(((?:\.\./)+[^)#\s]+)", page.read_text(encoding="utf-8"))
    paths = {(page.parent / target).resolve() for target in targets}
    return {path.relative_to(ROOT).as_posix() for path in paths if path.is_file() and ROOT / "docs" not in path.parents}


def source_page(name: str) -> str:
    """A file of the repository as a page; the search leaves it out, whose readers look for words about things."""
    kind = {".py": "python", ".toml": "toml", ".md": "markdown"}.get(Path(name).suffix, "text")
    text = (ROOT / name).read_text(encoding="utf-8")
    return f"---\nsearch:\n  exclude: true\n---\n\n# `{name}`\n\n`````{kind}\n{text}`````\n"


def notebook_page(path: Path) -> str:
    """A notebook with what its cells printed and drew."""
    parts = []
    for cell in nbformat.read(path, as_version=4).cells:
        parts.append(cell.source if cell.cell_type == "markdown" else f"```python\n{cell.source}\n```")
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if "image/png" in data:
                picture = "".join(data["image/png"].split())
                parts.append(f'<img alt="what this cell draws" src="data:image/png;base64,{picture}">')
            elif words := output.get("text") or data.get("text/plain"):
                parts.append(f"```text\n{words.rstrip()}\n```")
    return "\n\n".join(parts) + "\n"


def python_reference() -> str:
    """Every public name, in groups."""
    public = {name for name in markovae.__all__ if not name.startswith("__")}
    grouped = {**GROUPS, "Others": tuple(sorted(public - {name for names in GROUPS.values() for name in names}))}
    parts = ["# Python reference\n\nEvery public name of `import markovae as mv`.\n"]
    for title, names in grouped.items():
        known = [name for name in names if name in public]
        if known:
            parts += [f"\n## {title}\n", *(f"\n::: markovae.{markovae._HOME[name]}.{name}\n" for name in known)]
    return "".join(parts)


def command_reference() -> str:
    """The help of every command, from the parser itself."""
    parts = ["# Command line reference\n"]
    for command in ("", *COMMANDS):
        text = help_of(command)
        parts.append(f"\n## `markovae{' ' * bool(command)}{command}`\n\n```text\n{text}```\n")
    return "".join(parts)


def help_of(command: str) -> str:
    """What `markovae COMMAND --help` prints at 100 columns."""
    os.environ["COLUMNS"] = "100"
    out = io.StringIO()
    with redirect_stdout(out):
        try:
            main([*([command] if command else []), "--help"])
        except SystemExit as ended:
            if ended.code:
                raise
    return out.getvalue()


def on_page_markdown(markdown: str, page: Any, config: MkDocsConfig, files: Files) -> str:
    """Point links that leave docs/ at the pages made of those files, and rank the page in the search."""
    page.meta.setdefault("search", {}).setdefault("boost", RANKS.get(page.file.src_uri, 1))
    here = Path(page.file.src_uri).parent
    folder = ROOT / "docs" / here

    def led(match: re.Match[str]) -> str:
        path = (folder / match[1]).resolve()
        if ROOT / "docs" in path.parents or not path.is_relative_to(ROOT):
            return match[0]
        if path.is_dir() or not files.get_file_from_path(f"source/{path.relative_to(ROOT).as_posix()}.md"):
            return "](" + os.path.relpath("index.md", here) + ")"
        return "](" + os.path.relpath(f"source/{path.relative_to(ROOT).as_posix()}.md", here) + ")"

    markdown = re.sub(r"\]\(((?:course/)?\d\d_\w+)\.ipynb\)", r"](\1.md)", markdown)
    return re.sub(r"\]\(((?:\.\./)+[^)#\s]+)(#[^)\s]*)?\)", led, markdown)


def on_page_content(content: str, **_: Any) -> str:
    r"""Turn \(…\) and \[…\] into MathML; what a phone is too narrow for is scrolled, not the page."""

    def mathml(match: re.Match[str]) -> str:
        equation = tagged(html.unescape(match[3]))
        if match[2] == "[":
            style = "overflow: auto hidden; padding: 0.4em 0"
            return f'<div style="{style}" tabindex="0">{convert(equation, display="block")}</div>'
        if len(equation) < LONG:
            return convert(equation, display="inline")
        style = "display: inline-block; max-width: 100%; overflow: auto hidden; vertical-align: bottom"
        return f'<span style="{style}" tabindex="0">{convert(equation, display="inline")}</span>'

    found = r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>'
    return re.sub(found, mathml, content, flags=re.DOTALL)


def tagged(equation: str) -> str:
    r"""LaTeX that the converter knows: \tag{E1} as text at the end, \big delimiters as they are."""
    equation = re.sub(r"\\tag\{([^}]*)\}", r"\\qquad(\\text{\1})", equation)
    return re.sub(r"\\[bB]igg?([lr])?(?=\W)", "", equation)


def on_post_page(output: str, page: Any, config: MkDocsConfig) -> str:
    """Take the script that lets the search work from the disk from here, not from another host; paint whole pages."""
    output = output.replace("</head>", f"{WHOLE}</head>", 1)
    return output.replace(FOREIGN, os.path.relpath("assets/frame_worker.js", Path(page.file.dest_uri).parent))


def on_post_build(config: MkDocsConfig) -> None:
    """Let the search's worker begin with docs/assets/search_words.js."""
    (worker,) = Path(config.site_dir, "assets", "javascripts", "workers").glob("search.*.js")
    words = (ROOT / "docs" / "assets" / "search_words.js").read_text(encoding="utf-8")
    worker.write_text(words + worker.read_text(encoding="utf-8"), encoding="utf-8")


def on_post_template(output_content: str, template_name: str, config: MkDocsConfig) -> str:
    """The same for pages that are not of docs/."""
    return output_content.replace(FOREIGN, "assets/frame_worker.js")
