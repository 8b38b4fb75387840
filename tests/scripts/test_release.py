"""`make release`: what it cuts, what it refuses to ship, and what the containers are built of."""

import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml

import markovae
from scripts import release

ROOT = Path(__file__).resolve().parents[2]


def tree(
    folder: Path, log: str = "# Changelog\n\n## Unreleased\n\n- New.\n\n## 0.1.0 (2026-01-01)\n\n- Old.\n"
) -> Path:
    init = folder / release.INIT
    init.parent.mkdir(parents=True)
    init.write_text('"""Text."""\n\n__version__ = "0.1.0"\n', encoding="utf-8")
    (folder / release.CHANGELOG).write_text(log, encoding="utf-8")
    (folder / release.RECIPE).parent.mkdir(parents=True)
    (folder / release.RECIPE).write_bytes((ROOT / release.RECIPE).read_bytes())
    return folder


def test_a_release_takes_the_next_minor_version_and_what_is_unreleased(tmp_path: Path) -> None:
    assert release.cut(tree(tmp_path), None, "2026-12-01") == "0.2.0"
    assert '__version__ = "0.2.0"' in (tmp_path / release.INIT).read_text(encoding="utf-8")
    assert (tmp_path / release.CHANGELOG).read_text(encoding="utf-8") == (
        "# Changelog\n\n## Unreleased\n\n## 0.2.0 (2026-12-01)\n\n- New.\n\n## 0.1.0 (2026-01-01)\n\n- Old.\n"
    )
    assert '\n  version: "0.2.0"\n' in (tmp_path / release.RECIPE).read_text(encoding="utf-8")
    with pytest.raises(ValueError, match="nothing under"):
        release.cut(tmp_path, None, "2026-12-02")


@pytest.mark.parametrize("version", ["0.1.0", "0.0.9", "1.0", "0.2.0rc1"])
def test_a_version_must_rise(tmp_path: Path, version: str) -> None:
    with pytest.raises(ValueError, match=re.escape(f"version {version} must be X.Y.Z above 0.1.0")):
        release.cut(tree(tmp_path), version, "2026-12-01")


def test_the_project_can_be_cut(tmp_path: Path) -> None:
    for name in (release.INIT, release.CHANGELOG, release.RECIPE):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    release.cut(tmp_path, "99.0.0", "2026-12-01")


def test_a_wheel_is_told_what_it_lacks_and_what_it_must_not_hold(tmp_path: Path) -> None:
    package = ROOT / "src" / "markovae"
    inside = [f"markovae/{path.relative_to(package).as_posix()}" for path in package.rglob("*.py")]
    inside += [f"markovae/{name}" for name in release.DATA] + ["markovae-0.2.0.dist-info/licenses/LICENSE"]
    wheel = tmp_path / "markovae-0.2.0-py3-none-any.whl"

    def told(held: list[str]) -> list[str]:
        with zipfile.ZipFile(wheel, "w") as archive:
            for name in held:
                archive.writestr(name, "")
        return release.missing(release.names(wheel), package, "0.2.0")

    assert told(inside) == []
    assert told([name for name in inside if "digits.npz" not in name]) == ["the wheel lacks markovae/data/digits.npz"]
    assert told([*inside, "tests/test_x.py"])[0] == "the wheel must not hold tests/test_x.py"
    assert told(inside[:-1]) == ["the wheel lacks markovae-0.2.0.dist-info/licenses/LICENSE"]


def test_every_data_file_of_the_package_is_in_the_list_of_the_release() -> None:
    package = ROOT / "src" / "markovae"
    held = {
        p.relative_to(package).as_posix() for p in package.rglob("*") if p.is_file() and "__pycache__" not in p.parts
    }
    assert {name for name in held if not name.endswith(".py")} == set(release.DATA)


def test_the_recipe_of_conda_says_what_pyproject_says() -> None:
    recipe = yaml.safe_load((ROOT / release.RECIPE).read_text(encoding="utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    told, needs = project["project"], recipe["requirements"]
    wanted = [f"python{told['requires-python']}", *told["dependencies"]]
    assert [need.replace(" ", "").replace("pytorch>", "torch>") for need in needs["run"]] == wanted
    assert {need.replace(" ", "") for need in needs["host"]} == {
        wanted[0], "pip", *project["build-system"]["requires"],
    }  # fmt: skip
    assert recipe["package"] == {"name": told["name"], "version": markovae.__version__}
    entry = [f"{name} = {target}" for name, target in told["scripts"].items()]
    assert recipe["build"]["python"]["entry_points"] == entry
    about = {"summary": told["description"], "license": told["license"], "license_file": told["license-files"][0]}
    assert recipe["about"] == about


@pytest.mark.parametrize("name", ["Dockerfile", "Dockerfile.cuda"])
def test_a_container_is_linted(name: str) -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    if not hadolint.exists():
        pytest.skip("hadolint has no wheel for this machine")
    done = subprocess.run([hadolint, "--no-color", ROOT / name], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, ""), done.stdout + done.stderr


@pytest.mark.parametrize("name", ["Dockerfile", "Dockerfile.cuda"])
def test_a_container_has_a_pinned_base_runs_the_wheel_and_not_as_root(name: str) -> None:
    text = re.sub(r"\\\n", " ", (ROOT / name).read_text(encoding="utf-8"))
    lines = [line.split(maxsplit=1) for line in text.splitlines() if line.strip() and not line.startswith("#")]
    assert {word for word, _ in lines} <= {"FROM", "ARG", "WORKDIR", "COPY", "RUN", "USER", "ENV", "ENTRYPOINT", "CMD"}
    bases = [rest.split()[0] for word, rest in lines if word == "FROM"]
    assert all(re.fullmatch(r"python:3\.\d+\.\d+-slim-\w+", base) for base in bases), bases
    last = max(i for i, (word, _) in enumerate(lines) if word == "FROM")
    final = lines[last + 1 :]
    installs = " ".join(rest for word, rest in final if word == "RUN")
    assert "/wheel/*.whl" in installs
    assert "--constraint /wheel/constraints.txt" in installs
    assert ("USER", "10001") in [tuple(line) for line in final]
    assert not [rest for word, rest in final if word == "COPY" and rest.split()[0] in (".", "src")]
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()
    assert ignored[0] == "*"
    assert {f"!{item}" for item in ("src", "pyproject.toml", "constraints.txt", "README.md", "LICENSE")} == {
        *ignored[1:]
    }
