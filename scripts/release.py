"""Make a release: `make release` (the next minor version) or `make release VERSION=0.2.1`.

Everything happens in build/release, on a copy of what is committed: the changelog is cut, sdist and wheel are built and
their contents checked, and the wheel alone is installed into a clean environment of every Python at hand, where it
verifies the derivation, trains, samples, measures and runs examples/. Only then are the version and the changelog
written to the working tree; committing, tagging and uploading are left to a person. Needs git and pip; a failure stops
it with exit code 1, and nothing has changed.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "build" / "release"
MINORS = range(11, 15)  # Python 3.11 to 3.14
INIT, CHANGELOG, RECIPE = "src/markovae/__init__.py", "CHANGELOG.md", "packaging/conda/recipe.yaml"
VERSION = re.compile(r'^__version__ = "(\d+)\.(\d+)\.(\d+)"$', re.MULTILINE)
DATA = (
    *("py.typed", "data/digits.npz", "quality/weights/small.safetensors", "quality/weights/lite0.json"),
    *(f"web/static/{name}" for name in ("index.html", "page.css", "page.js", "lecture.js")),
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--version", help="default: the next minor version")
    parser.add_argument("--python", action="append", help="only this interpreter (repeatable); default: all at hand")
    options = parser.parse_args()
    begun = state()
    if begun[1]:
        return refuse("uncommitted changes: a release is made of what is committed")
    shutil.rmtree(BUILD, ignore_errors=True)
    source = BUILD / "source"
    source.mkdir(parents=True)
    run("git", "archive", "--output", str(BUILD / "source.tar"), "HEAD", cwd=ROOT)
    run("tar", "-xf", str(BUILD / "source.tar"), "-C", str(source), cwd=ROOT)
    try:
        version = cut(source, options.version, f"{datetime.now(UTC):%Y-%m-%d}")
        sdist, wheel = build(source)
        package = source / "src" / "markovae"
        wrong = [*missing(names(sdist), package, version, prefix="src/"), *missing(names(wheel), package, version)]
        if wrong:
            return refuse("\n".join(wrong))
        print(f"{sdist.name}, {wheel.name}: contents as they should be", flush=True)
        for python in options.python or pythons():
            started = time.monotonic()
            journey(python, wheel, source)
            print(f"{python}: installed, verified, trained, measured ({time.monotonic() - started:.0f} s)", flush=True)
    except (Failed, ValueError) as error:
        return refuse(str(error))
    if state() != begun:
        return refuse("the working tree changed while the release was tried")
    for name in (INIT, CHANGELOG, RECIPE):
        shutil.copyfile(source / name, ROOT / name)
    shutil.copytree(BUILD / "dist", ROOT / "dist", dirs_exist_ok=True)
    print(f"dist/ holds {version}. Now: git commit -am 'Release {version}' && git tag v{version}")
    return 0


def state() -> tuple[str, str]:
    """What is committed, and what differs from it."""
    return run("git", "rev-parse", "HEAD", cwd=ROOT), run("git", "status", "--porcelain", "-uno", cwd=ROOT)


class Failed(Exception):
    """A command that ended with another exit code than 0."""


def refuse(sentence: str) -> int:
    print(f"no release: {sentence}", file=sys.stderr)
    return 1


def run(*command: str, cwd: Path, env: dict[str, str] | None = None) -> str:
    """What a command prints on stdout. Raises `Failed` with its last lines where it does not end with 0."""
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        tail = "\n".join((done.stdout + done.stderr).splitlines()[-20:])
        raise Failed(f"{' '.join(command)} ended with {done.returncode}:\n{tail}")
    return done.stdout


def cut(source: Path, version: str | None, day: str) -> str:
    """Give the copy its version, and what stands under "Unreleased" in its changelog that heading; the version."""
    init, log, recipe = (source / name for name in (INIT, CHANGELOG, RECIPE))
    found = VERSION.search(init.read_text(encoding="utf-8"))
    if found is None:
        raise ValueError(f'{INIT} has no line __version__ = "X.Y.Z"')
    version = version or f"{found[1]}.{int(found[2]) + 1}.0"
    if not re.fullmatch(r"\d+\.\d+\.\d+", version) or tuple(map(int, version.split("."))) <= tuple(
        map(int, found.groups())
    ):
        raise ValueError(f"version {version} must be X.Y.Z above {'.'.join(found.groups())}")
    text = log.read_text(encoding="utf-8")
    changes = re.search(r"^## Unreleased\n(.*?)(?=^## \d|\Z)", text, re.MULTILINE | re.DOTALL)
    if changes is None or not changes[1].strip():
        raise ValueError(f'{CHANGELOG} has nothing under "## Unreleased"')
    init.write_text(VERSION.sub(f'__version__ = "{version}"', init.read_text(encoding="utf-8")), encoding="utf-8")
    recipe.write_text(
        re.sub(r'^  version: ".*"$', f'  version: "{version}"', recipe.read_text(encoding="utf-8"), flags=re.MULTILINE),
        encoding="utf-8",
    )
    log.write_text(text.replace("## Unreleased\n", f"## Unreleased\n\n## {version} ({day})\n", 1), encoding="utf-8")
    return version


def build(source: Path) -> tuple[Path, Path]:
    """The sdist, and the wheel that is built from the sdist."""
    tools, dist = environment(sys.executable, "tools", "build"), BUILD / "dist"
    run(str(tools), "-m", "build", "--outdir", str(dist), str(source), cwd=BUILD)
    (sdist,), (wheel,) = dist.glob("*.tar.gz"), dist.glob("*.whl")
    return sdist, wheel


def environment(python: str, name: str, *packages: str) -> Path:
    """The interpreter of a new environment with these packages, by the pip of the Python that runs this."""
    folder = BUILD / name
    run(python, "-m", "venv", "--without-pip", str(folder), cwd=BUILD)
    inside = folder / "bin" / "python"
    pip = (sys.executable, "-m", "pip", "--python", str(inside), "install", "--quiet")
    run(*pip, "-c", str(ROOT / "constraints.txt"), *packages, cwd=BUILD)
    return inside


def names(archive: Path) -> list[str]:
    """The files of an sdist (without its top folder) or of a wheel."""
    if archive.suffix == ".whl":
        return zipfile.ZipFile(archive).namelist()
    with tarfile.open(archive) as tar:
        return [member.name.partition("/")[2] for member in tar if member.isfile()]


def missing(found: Iterable[str], package: Path, version: str, prefix: str = "") -> list[str]:
    """What is wrong with the files of an archive, a sentence each: every source file, data, license; no tests."""
    found, which = set(found), "the sdist" if prefix else "the wheel"
    wanted = {f"{prefix}markovae/{path.relative_to(package).as_posix()}" for path in package.rglob("*.py")}
    wanted |= {f"{prefix}markovae/{name}" for name in DATA}
    wanted |= (
        {"LICENSE", "README.md", "pyproject.toml"} if prefix else {f"markovae-{version}.dist-info/licenses/LICENSE"}
    )
    foreign = [name for name in found if re.search(r"(^|/)(tests?|benchmarks|build|runs)/|(^|/)test_\w+\.py$", name)]
    if not prefix:
        foreign += [name for name in found if not name.startswith(("markovae/", f"markovae-{version}.dist-info/"))]
    return [f"{which} lacks {name}" for name in sorted(wanted - found)] + [
        f"{which} must not hold {name}" for name in sorted(foreign)
    ]


def pythons() -> list[str]:
    """An interpreter of each version that starts here: on the PATH, else of pyenv."""
    found = []
    for minor in MINORS:
        on_path = shutil.which(f"python3.{minor}")
        root = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
        ahead = [on_path] * bool(on_path) + sorted(map(str, root.glob(f"versions/3.{minor}.*/bin/python")))
        for python in ahead:
            done = subprocess.run([python, "-c", "import venv"], capture_output=True, check=False)
            if done.returncode == 0:
                found.append(python)
                break
    return found


def journey(python: str, wheel: Path, source: Path) -> None:
    """A first day with the wheel alone, in a clean environment and an empty folder."""
    label = "py" + run(python, "-c", "import sys; print('%d.%d' % sys.version_info[:2])", cwd=BUILD).strip()
    inside = environment(python, label, str(wheel))
    here = BUILD / label / "work"
    here.mkdir()
    env = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "MARKOVAE"))}
    env |= {"XDG_CACHE_HOME": str(here / "cache"), "PYTHONWARNINGS": "error::DeprecationWarning:markovae"}

    def inside_run(*arguments: str) -> str:
        return run(str(inside), *arguments, cwd=here, env=env)

    home = inside_run("-c", "import markovae; print(markovae.__file__)").strip()
    if not home.startswith(str(BUILD / label)):
        raise Failed(f"{python} imports markovae from {home}, not from the wheel")
    markovae = ("-m", "markovae")
    inside_run(*markovae, "verify")
    inside_run(*markovae, "train", "digits", "--out", "run", "--steps", "30", "--set", "network.width=16")
    inside_run(*markovae, "sample", "run", "--n", "4", "--steps", "5", "--out", "samples")
    record = json.loads(inside_run(*markovae, "measure", "run", "--limit", "8", "--draws", "2", "--json"))
    if not 0 < record["bits_per_dim"]["mean"] < 20:
        raise Failed(f"bits_per_dim is {record['bits_per_dim']} after 30 steps on the digits")
    for example in sorted((source / "examples").glob("*.py")):
        inside_run(str(example))


if __name__ == "__main__":
    raise SystemExit(main())
