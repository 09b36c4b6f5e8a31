"""The stubs say what there is, and the tests keep to them."""

import ast
import importlib.metadata
import subprocess
import sys
from pathlib import Path


def mypy(*args: str) -> None:
    done = subprocess.run([sys.executable, "-m", *args], cwd=Path(__file__).parent.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_stubs_are_those_of_the_module() -> None:
    mypy("mypy.stubtest", "dirtymap", "--ignore-missing-stub")


def test_nothing_is_missing_in_the_stubs() -> None:
    import dirtymap

    assert dirtymap.__file__
    stub = ast.parse(Path(dirtymap.__file__).with_name("__init__.pyi").read_text())
    names = {
        node.name: {each.name for each in node.body if isinstance(each, ast.FunctionDef)}
        for node in stub.body
        if isinstance(node, ast.ClassDef)
    }
    for kind in (dirtymap.Map, dirtymap.DirtyMap, dirtymap.Bitmap, dirtymap.Checkpoint, dirtymap.Write, dirtymap.Extents):
        public = {name for name in vars(kind) if not name.startswith("_")}
        assert public <= names[kind.__name__], public - names[kind.__name__]


def test_programs_can_be_checked() -> None:
    mypy("mypy", "tests", "cost.py")


def test_everything_has_a_docstring() -> None:
    import dirtymap

    public = [getattr(dirtymap, name) for name in dirtymap.__all__]
    public += [value for kind in public if isinstance(kind, type) for name, value in vars(kind).items() if not name.startswith("_")]
    bare = [each for each in public if not each.__doc__]
    assert len(public) > 60 and not bare, bare


def test_one_wheel_is_for_all_versions() -> None:
    wheel = importlib.metadata.distribution("dirtymap").read_text("WHEEL")
    assert wheel and "Tag: cp311-abi3-" in wheel
