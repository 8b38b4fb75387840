"""The rules that keep the house in order: what may import what, what may not be used at all, how long a file may be."""

import ast
import inspect
import re
import subprocess
import sys
from functools import cache
from importlib import import_module
from pathlib import Path

import pytest

import markovae

SOURCE = Path(markovae.__file__).parent

# Top first: a room may import only rooms above its own line. A new room gets its place here.
ROOMS = """
    locations errors strict_json system log randomness tables networks diffusion data text likelihood sampling quality
    training config build checkpoints run interop report theory cli __main__
""".split()  # noqa: SIM905
TORCH_ALONE = ("randomness", "networks", "diffusion")
MAX_ARGUMENTS = 8


def files() -> list[Path]:
    return sorted(SOURCE.rglob("*.py"))


def room_of(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imported(path: Path, *, running: bool = False) -> set[str]:
    """Every module a file imports anywhere in it, in full; `running` leaves out what only type checkers read."""
    found: set[str] = set()
    typing_only = {
        inner
        for node in ast.walk(tree(path))
        if running and isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in set(ast.walk(tree(path))) - typing_only:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            module = node.module or ""
            found |= {f"{module}.{alias.name}" for alias in node.names} if module == "markovae" else {module}
    return found


in_every_file = pytest.mark.parametrize("path", files(), ids=lambda p: str(p.relative_to(SOURCE)))


@in_every_file
def test_imports_point_up_the_list_of_rooms_only(path: Path) -> None:
    room = room_of(path)
    if room == "__init__":
        return
    assert room in ROOMS, f"room {room} has no place in the list"
    for module in imported(path):
        if module.startswith("markovae.") and (other := module.split(".")[1]) not in (room, "__version__"):
            assert ROOMS.index(other) < ROOMS.index(room), f"{room} must not import {other}: it lies below"


@in_every_file
def test_the_mathematics_needs_torch_alone(path: Path) -> None:
    if room_of(path) in TORCH_ALONE:
        outside = {module.split(".")[0] for module in imported(path, running=True)} - set(sys.stdlib_module_names)
        assert outside <= {"torch", "markovae"}


@in_every_file
def test_nothing_that_can_execute_is_ever_read(path: Path) -> None:
    assert not imported(path) & {"pickle", "cPickle", "dill", "cloudpickle", "shelve", "marshal", "joblib"}
    assert not [module for module in imported(path) if module.startswith("torch.distributed.checkpoint")]
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            assert name not in {"torch.load", "torch.save", "eval", "exec", "torch.hub.load"}, name
            assert not re.fullmatch(r"(dist|torch\.distributed)\..*_object(_list|s)?", name), f"{name} pickles"
            if name in {"np.load", "numpy.load"}:
                assert "allow_pickle" in {keyword.arg for keyword in node.keywords}, f"line {node.lineno}: {name}"
            for keyword in node.keywords:
                refused = keyword.arg == "allow_pickle" and ast.unparse(keyword.value) != "False"
                assert not refused, f"line {node.lineno}: allow_pickle"


@in_every_file
def test_text_leaves_by_one_door_only(path: Path) -> None:
    """`log` alone prints, so that no name of a file's commands a terminal."""
    if path == SOURCE / "log.py":
        return
    outside = {module.split(".")[0] for module in imported(path)} & {"rich", "logging", "syslog", "curses", "readline"}
    assert not outside
    for node in ast.walk(tree(path)):
        name = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
        assert not re.fullmatch(r"p?print|input|.*\.pprint|traceback\.print_\w+|warnings\.showwarning", name), name
        assert not re.fullmatch(r"sys\.(__)?std(out|err)(__)?(\.buffer)?\.write(lines)?", name), name
        assert not (isinstance(node, ast.Call) and name == "os.write" and ast.unparse(node.args[0]) in "12"), (
            node.lineno
        )


@in_every_file
def test_constructors_stay_small(path: Path) -> None:
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.FunctionDef) and node.name == "__init__":
            arguments = node.args.args[1:] + node.args.kwonlyargs
            assert len(arguments) <= MAX_ARGUMENTS, f"line {node.lineno}: {len(arguments)} arguments"


@in_every_file
def test_nothing_is_left_for_later(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert not [word for word in ("raise NotImplemented" + "Error", "TO" + "DO", "FIX" + "ME") if word in text]


def packages() -> list[str]:
    return sorted(".".join(("markovae", *p.parent.relative_to(SOURCE).parts)) for p in SOURCE.rglob("__init__.py"))


@pytest.mark.parametrize("name", packages())
def test_no_public_function_shares_a_submodules_name(name: str) -> None:
    """Else `import a.b` gives the module or the function depending on what was imported before."""
    package = import_module(name)
    assert package.__file__ is not None
    here = Path(package.__file__).parent
    modules = {p.stem for p in here.glob("*.py")} | {p.parent.name for p in here.glob("*/__init__.py")}
    public = [n for n in getattr(package, "__all__", []) if n not in ("__version__",)]
    assert not [n for n in public if n in modules and not inspect.ismodule(getattr(package, n))]


def abstract_or_final() -> list[tuple[str, type]]:
    found = {}
    for path in files():
        parts = path.relative_to(SOURCE).with_suffix("").parts
        if parts[-1] in ("__init__", "__main__"):
            continue
        module = import_module(".".join(("markovae", *parts)))
        for name, kind in vars(module).items():
            if inspect.isclass(kind) and kind.__module__ == module.__name__:
                found[f"{module.__name__}.{name}"] = kind
    return sorted(found.items())


def test_no_class_is_both_inherited_from_and_instantiated() -> None:
    """A class of ours that has subclasses of ours is abstract, a Protocol, or an exception."""
    classes = abstract_or_final()
    assert len(classes) > 50
    parents = {base for _, kind in classes for base in kind.__bases__ if base.__module__.startswith("markovae")}
    wrong = [p for p in parents if not inspect.isabstract(p) and not issubclass(p, BaseException)]
    assert not [p for p in wrong if not getattr(p, "_is_protocol", False)]


def test_importing_the_package_loads_no_torch_and_its_names_are_all_there() -> None:
    code = (
        "import sys, markovae; assert 'torch' not in sys.modules and 'numpy' not in sys.modules; "
        "[getattr(markovae, n) for n in markovae.__all__]; assert 'torch' in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_package_has_no_attribute_of_another_name() -> None:
    with pytest.raises(AttributeError, match="no attribute 'colour'"):
        _ = markovae.colour
    assert set(dir(markovae)) == set(markovae.__all__)


def test_the_page_lists_the_rooms_in_their_order() -> None:
    page = (SOURCE.parents[1] / "docs" / "architecture.md").read_text(encoding="utf-8")
    table = page[page.index("| room") :].split("\n\n")[0]
    listed = [name for line in table.splitlines()[2:] for name in re.findall(r"`(\w+)`", line.split("|")[1])]
    assert [room for room in ROOMS if room in listed] == listed
    assert set(ROOMS) - set(listed) <= {"__main__"}
