"""The house: packages listed by hand match the folders, and imports point one way.

Read from the source with `ast`, so nothing here depends on how netir was installed.
"""

import ast
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import netir

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
SETUPTOOLS = PROJECT["tool"]["setuptools"]
FOLDERS = {name: ROOT / folder for name, folder in SETUPTOOLS["package-dir"].items()}

# A module imports what shares its room or stands on a floor below, that is, in a line above.
# `|` parts the rooms of one floor; a package's name covers its modules.
FLOORS = """
netir.kernels | netir.builtin
netir.errors
netir.dims | netir.axes | netir.files | netir.seeds | netir.registry
netir.layouts
netir.ir netir.ops netir.lower.tape
netir.text | netir.cost | netir.site | netir.evaluate | netir.samples | netir.room
netir.spaces
netir.basis
netir.moves
netir.layout_moves
netir.change netir.oracle netir.verify netir.edit
netir.where | netir.calibration | netir.equivariance | netir.given
netir.rewrite netir.width netir.compare | netir.latency
netir.passes | netir.lower | netir.store
netir.passes.methods | netir.frontends
netir.models
netir.losses netir.data netir.checked netir.task netir.tasks | netir.pipeline
netir.followers netir.replicas netir.live
netir.optimizers netir.score netir.train_options netir.train
netir.report
netir.spec
netir.runs
netir
netir.cli netir.demo
"""
ROOMS = {
    name: (floor, room)
    for floor, line in enumerate(FLOORS.split("\n"))
    for room, names in enumerate(line.split("|"))
    for name in names.split()
}

# The upward imports there are, such as a method of Graph that calls a higher floor, or a type.
# They are late: inside a function or under TYPE_CHECKING.
DOORS = {
    ("netir.ir", "netir.edit"),
    ("netir.ir", "netir.moves"),
    ("netir.ir", "netir.spaces"),
    ("netir.ir", "netir.text"),
    ("netir.latency", "netir.lower.torch"),
    ("netir.ops.base", "netir.site"),
    ("netir.passes.growth.grower", "netir.live"),
    ("netir.passes.growth.watch", "netir.live"),
    ("netir.passes.methods.dyno", "netir.live"),
    ("netir.passes.pruning.targets", "netir.lower.torch"),
    ("netir.site", "netir.spaces"),
}


class Import(NamedTuple):
    name: str
    line: int
    late: bool


def module_files() -> dict[str, Path]:
    """Every module of netir, by its dotted name."""
    return {
        package if file.stem == "__init__" else f"{package}.{file.stem}": file
        for package, folder in FOLDERS.items()
        for file in sorted(folder.glob("*.py"))
    }


MODULES = module_files()


def is_late(node: ast.AST) -> bool:
    match node:
        case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.If(test=ast.Name("TYPE_CHECKING")):
            return True
    return False


def imports(file: Path) -> Iterator[Import]:
    """Every name that a file imports, `from a import b` as `a.b`."""
    tree = ast.parse(file.read_text(), str(file))
    late = {id(node) for block in ast.walk(tree) if is_late(block) for node in ast.walk(block)}
    for node in ast.walk(tree):
        match node:
            case ast.Import(names):
                found = [alias.name for alias in names]
            case ast.ImportFrom(str(module), names, 0):
                found = [f"{module}.{alias.name}" for alias in names]
            case _:
                continue
        yield from (Import(name, node.lineno, id(node) in late) for name in found)


def target(name: str) -> str | None:
    """The module of netir that an imported name belongs to, if any."""
    while name and name not in MODULES:
        name = name.rpartition(".")[0]
    return name or None


def room(module: str) -> tuple[int, int] | None:
    """Floor and room of a module; the name `netir` covers its own file only."""
    while module and module not in ROOMS:
        module = module.rpartition(".")[0].removesuffix("netir")
    return ROOMS.get(module)


def may_import(importer: str, imported: str) -> bool:
    here, there = room(importer), room(imported)
    return here is not None and there is not None and (there == here or there[0] < here[0])


def upward(module: str) -> Iterator[tuple[Import, tuple[str, str]]]:
    """The imports of netir's own modules that the floors forbid."""
    for item in imports(MODULES[module]):
        imported = target(item.name)
        if imported is not None and not may_import(module, imported):
            yield item, (module, imported)


def test_packages_are_the_folders_with_python_files() -> None:
    tops = ("netir", "passes", "kernels", "frontends")
    found = {file.parent for top in tops for file in (ROOT / top).rglob("*.py")}
    assert found == set(FOLDERS.values())
    assert set(SETUPTOOLS["packages"]) == set(FOLDERS)
    assert [folder for folder in found if not (folder / "__init__.py").exists()] == []


def test_typing_marker_is_packaged() -> None:
    assert (ROOT / "netir/py.typed").exists()
    assert "py.typed" in SETUPTOOLS["package-data"]["netir"]


def test_version_is_the_one_in_pyproject() -> None:
    assert netir.__version__ == PROJECT["project"]["version"]


def test_kernels_package_is_only_a_docstring() -> None:
    # With the root on sys.path other libraries find and import this file as `kernels`.
    tree = ast.parse((ROOT / "kernels/__init__.py").read_text())
    assert len(tree.body) == 1
    assert ast.get_docstring(tree)


def test_kernels_import_only_torch_and_arrays() -> None:
    allowed = {"netir", "numpy", "scipy", "torch", "triton", *sys.stdlib_module_names}
    files = [file for name, file in MODULES.items() if name.startswith("netir.kernels")]
    read = {item.name.partition(".")[0] for file in files for item in imports(file)}
    assert read <= allowed


def test_every_module_has_a_room() -> None:
    assert [name for name in MODULES if room(name) is None] == [], "add them to FLOORS"


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_down(module: str) -> None:
    wrong = [
        f"line {item.line} imports {item.name}"
        for item, door in upward(module)
        if not (item.late and door in DOORS)
    ]
    assert wrong == []


def test_every_door_is_used() -> None:
    assert {door for module in MODULES for _, door in upward(module)} == DOORS


def test_folders_are_not_imported_by_their_bare_names() -> None:
    own = ("netir", "passes", "kernels", "frontends", "tests", "examples")
    wrong = [
        f"{file.relative_to(ROOT)}:{item.line}: {item.name}"
        for folder in own
        for file in sorted((ROOT / folder).rglob("*.py"))
        for item in imports(file)
        if item.name.partition(".")[0] in ("passes", "kernels", "frontends")
    ]
    assert wrong == []


@pytest.mark.parametrize(
    ("importer", "imported", "allowed"),
    [
        ("netir.ir", "netir.ops.conv", True),
        ("netir.ir", "netir.passes", False),
        ("netir.passes.widen", "netir.rewrite", True),
        ("netir.rewrite", "netir.passes.widen", False),
        ("netir.passes.widen", "netir.passes.methods.gradmax", False),
        ("netir.passes.widen", "netir.lower.torch", False),
        ("netir.kernels.expand", "netir.ir", False),
        ("netir.spaces", "netir", False),
        ("netir.nowhere", "netir.ir", False),
    ],
)
def test_may_import(importer: str, imported: str, allowed: bool) -> None:
    assert may_import(importer, imported) is allowed
