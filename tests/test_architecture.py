"""The rules of the package, one test each: what may import what, and what may not be used at all."""

import ast
import inspect
import re
import subprocess
import sys
from collections import Counter
from functools import cache
from importlib import import_module
from pathlib import Path

import pytest

import markovae

SOURCE = Path(markovae.__file__).parent

# Top first: a package may import only what stands before it. A new package gets its place here.
ORDER = """
    locations errors strict_json synonyms log system randomness tables columns networks diffusion data text likelihood
    compression sampling quality training config build checkpoints run interop report theory course web cli __main__
""".split()  # noqa: SIM905
TORCH_ALONE = ("randomness", "networks", "diffusion")
MODEL = ("networks", "diffusion", "likelihood", "sampling", "training", "build")
MAX_ARGUMENTS = 8

FILES = sorted(SOURCE.rglob("*.py"))


def name_of(path: Path) -> str:
    parts = path.relative_to(SOURCE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in FILES}


def package_of(module: str) -> str:
    return module.split(".")[1] if "." in module else "__init__"


def where(path: Path, node: ast.AST) -> str:
    return f"{path.relative_to(SOURCE)}:{getattr(node, 'lineno', 0)}"


@cache
def nodes(path: Path, *, running: bool = False) -> list[ast.AST]:
    """Every node of a file; `running` leaves out what only type checkers read."""
    if not running:
        return list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    unread = {
        inner
        for node in nodes(path)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    return [node for node in nodes(path) if node not in unread]


@cache
def imported(path: Path, *, running: bool = False) -> frozenset[str]:
    """Every module that a file imports anywhere in it, in full."""
    found: set[str] = set()
    for node in nodes(path, running=running):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            inside = {f"{module}.{alias.name}" for alias in node.names} & MODULES.keys()
            found |= {f"{module}.{alias.name}" for alias in node.names} if module == "markovae" else inside or {module}
    return frozenset(found)


def reached(module: str) -> set[str]:
    """What runs or may run after a module is imported: its imports, theirs, and so on; lazy ones too."""
    seen: set[str] = set()
    ahead = [module]
    while ahead:
        if (name := ahead.pop()) not in seen:
            seen.add(name)
            ahead += [other for other in imported(MODULES[name], running=True) if other in MODULES and "." in other]
    return seen


def packages_reached(package: str) -> dict[str, set[str]]:
    """Each module of a package with the packages that it reaches."""
    return {name: {package_of(m) for m in reached(name)} for name in MODULES if package_of(name) == package}


@cache
def calls() -> list[tuple[Path, ast.Call, str]]:
    return [
        (path, node, ast.unparse(node.func)) for path in FILES for node in nodes(path) if isinstance(node, ast.Call)
    ]


def test_imports_point_up_the_order_of_packages_only() -> None:
    assert not {package_of(name) for name in MODULES} - {*ORDER, "__init__"}, "a package has no place in ORDER"
    assert not [
        f"{name} imports {other}"
        for name, path in MODULES.items()
        for other in imported(path)
        if package_of(name) != "__init__" and other.startswith("markovae.") and other != "markovae.__version__"
        if package_of(other) != package_of(name) and ORDER.index(package_of(other)) > ORDER.index(package_of(name))
    ]


def test_imports_are_absolute() -> None:
    assert not [
        where(path, node) for path in FILES for node in nodes(path) if isinstance(node, ast.ImportFrom) and node.level
    ]


def test_the_mathematics_needs_torch_alone() -> None:
    allowed = {"torch", "markovae", *sys.stdlib_module_names}
    assert not [
        f"{name} imports {module}"
        for name, path in MODULES.items()
        if package_of(name) in TORCH_ALONE
        for module in imported(path, running=True)
        if module.split(".")[0] not in allowed
    ]


def test_data_do_not_know_the_model() -> None:
    assert not {name: found for name, seen in packages_reached("data").items() if (found := seen & set(MODEL))}


def test_training_does_not_import_the_report() -> None:
    assert not [name for name, seen in packages_reached("training").items() if "report" in seen]


def test_opening_a_run_does_not_import_the_report() -> None:
    homes = {name: home for name, home in markovae._HOME.items() if name in ("load", "load_run")}
    assert not [name for name, home in homes.items() if any("report" in m for m in reached(f"markovae.{home}"))]


def test_only_verify_and_the_course_reach_the_theory() -> None:
    outside = {name for name in MODULES if package_of(name) not in ("theory", "course")}
    users = {n for n in outside if any(package_of(m) == "theory" for m in imported(MODULES[n]) if m in MODULES)}
    assert users == {"markovae.cli.verify"}
    students = {n for n in outside if any(package_of(m) == "course" for m in imported(MODULES[n]) if m in MODULES)}
    assert students == {"markovae.cli.verify"}


def test_no_two_modules_have_one_name() -> None:
    stems = Counter(path.stem for path in FILES if path.stem not in ("__init__", "__main__"))
    assert not [stem for stem, count in stems.items() if count > 1]


def test_nothing_that_can_execute_is_ever_read() -> None:
    banned = {"pickle", "cPickle", "dill", "cloudpickle", "shelve", "marshal", "joblib", "torch.distributed.checkpoint"}
    assert not [
        f"{name} imports {module}"
        for name, path in MODULES.items()
        for module in imported(path)
        if module in banned or module.startswith("torch.distributed.checkpoint")
    ]
    assert not [
        f"{where(path, call)} {name}"
        for path, call, name in calls()
        if name in {"torch.load", "torch.save", "eval", "exec", "torch.hub.load"}
        or re.fullmatch(r"(dist|torch\.distributed)\..*_object(_list|s)?", name)
        or (name in {"np.load", "numpy.load"} and "allow_pickle" not in {k.arg for k in call.keywords})
        or any(k.arg == "allow_pickle" and ast.unparse(k.value) != "False" for k in call.keywords)
    ]


def test_text_leaves_by_one_door_only() -> None:
    """`log` alone prints, so that no name of a file's commands a terminal."""
    door = SOURCE / "log.py"
    assert not [
        f"{name} imports {module}"
        for name, path in MODULES.items()
        for module in imported(path)
        if path != door and module.split(".")[0] in {"rich", "logging", "syslog", "curses", "readline"}
    ]
    assert not [
        f"{where(path, call)} {name}"
        for path, call, name in calls()
        if path != door
        if re.fullmatch(r"p?print|input|.*\.pprint|traceback\.print_\w+|warnings\.showwarning", name)
        or re.fullmatch(r"sys\.(__)?std(out|err)(__)?(\.buffer)?\.write(lines)?", name)
        or (name == "os.write" and ast.unparse(call.args[0]) in "12")
    ]


def test_images_are_opened_in_one_place() -> None:
    """What a stranger's image may be, and how large, is judged by its header there."""
    opens = {path for path, _, name in calls() if re.fullmatch(r"((PIL\.)?Image|ImageFile)\.(open|Parser)", name)}
    assert opens == {SOURCE / "data" / "image_reader.py"}
    assert not [path for path in FILES if {"PIL.Image.open", "cv2", "imageio", "torchvision"} & imported(path)]


def test_constructors_stay_small() -> None:
    assert not [
        f"{where(path, node)} {count} arguments"
        for path in FILES
        for node in nodes(path)
        if isinstance(node, ast.FunctionDef) and node.name == "__init__"
        if (count := len(node.args.posonlyargs + node.args.args + node.args.kwonlyargs) - 1) > MAX_ARGUMENTS
    ]


def test_nothing_is_left_for_later() -> None:
    words = ("raise NotImplemented" + "Error", "TO" + "DO", "FIX" + "ME")
    assert not [f"{path} {word}" for path in FILES for word in words if word in path.read_text(encoding="utf-8")]


def test_no_public_name_is_a_submodules_too() -> None:
    """Else `import a.b` gives the module or the function depending on what was imported before."""
    wrong = []
    for path in SOURCE.rglob("__init__.py"):
        package = import_module(name_of(path))
        modules = {p.stem for p in path.parent.glob("*.py")} | {
            p.parent.name for p in path.parent.glob("*/__init__.py")
        }
        public = set(getattr(package, "__all__", [])) - {"__version__"}
        wrong += [f"{path} {n}" for n in public & modules if not inspect.ismodule(getattr(package, n))]
    assert not wrong


def test_no_class_is_both_inherited_from_and_instantiated() -> None:
    """A class of ours that has subclasses of ours is abstract, a Protocol, or an exception."""
    classes = {
        kind
        for name in MODULES
        if not name.endswith("__main__")
        for kind in vars(import_module(name)).values()
        if inspect.isclass(kind) and kind.__module__ == name
    }
    assert len(classes) > 50
    parents = {base for kind in classes for base in kind.__bases__ if base.__module__.startswith("markovae")}
    wrong = [p for p in parents if not inspect.isabstract(p) and not issubclass(p, BaseException)]
    assert not [p for p in wrong if not getattr(p, "_is_protocol", False)]


def test_importing_the_package_loads_no_torch_and_its_names_are_all_there() -> None:
    code = "import sys, markovae; assert not {'torch', 'numpy', 'PIL'} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert all(hasattr(markovae, name) for name in markovae.__all__)


def test_the_package_has_no_attribute_of_another_name() -> None:
    with pytest.raises(AttributeError, match="no attribute 'colour'"):
        _ = markovae.colour
    assert set(dir(markovae)) == set(markovae.__all__)
