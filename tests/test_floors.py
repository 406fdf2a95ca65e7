"""The rooms of the library stand one upon another: imports go strictly downwards, and never in a circle.

What they define is named once.
"""

import ast
from collections import defaultdict
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import linft

ROOT = Path(linft.__file__).parent

ROOMS = (
    "core", "runtime", "models", "data", "zoo", "ntk", "training", "predict", "scores", "workflows", "report", "cli",
)  # fmt: skip
"""From the ground up. A room may import those before it; its own modules may import one another."""

WORKFLOWS = ("compare", "rank", "sweep", "advise", "benchmark")
"""The same within `linft.workflows`."""

# module or package -> the only ones that may import it
ONLY = {
    "linft.ntk.neural_tangents_compat": ("linft.ntk", "linft.predict.flow"),
    "linft.ntk": (
        "linft.predict",
        "linft.scores.gather",
        "linft.workflows.compare",
        "linft.cli.kernel",
    ),  # to predict; to score; to see it change; to keep it
    "matplotlib": ("linft.report",),
}

ARCHITECTURES = "linft.models.architectures"
PARTS = {"Stem", "Stage", "LastStage", "Block", "Bottleneck", "DenseLayer", "Transition"}
"""What architectures are made of, each of parts of its own."""

MODULES = {
    ".".join(path.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(ROOT.rglob("*.py"))
    if path != ROOT / "__init__.py"  # the lazy table of names, which knows them all
}


@cache
def imports(path: Path) -> set[str]:
    """Every module that a file imports, at the top or inside a function, but not for types only."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = []
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, f"{path} has a relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {home(name) for name in found}


def home(name: str) -> str:
    """The module where a name lives that linft loads lazily: `linft.rank` is of `linft.workflows.rank.rank`."""
    first = name.split(".")[1] if inside(name, "linft") and name != "linft" else ""
    return linft._HOME.get(first, name)


def module_of(name: str) -> str | None:
    """The module of linft that an imported name is, or is of."""
    while name and name not in MODULES:
        name = name.rpartition(".")[0]
    return name or None


def inside(module: str, package: str) -> bool:
    return module == package or module.startswith(package + ".")


def types(path: Path) -> set[str]:
    """The public classes and aliases of types of a file; aliases are written in capitals as classes are."""
    found = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found |= {each.id for each in targets if isinstance(each, ast.Name) and not each.id.isupper()}
    return {name for name in found if name[0].isupper()}


def height(module: str) -> tuple[int, int]:
    """The floor of a module's room and, of a workflow, its own within that room."""
    _, room, *rest = module.split(".")
    assert room in ROOMS, f"give {module} a room"
    return ROOMS.index(room), WORKFLOWS.index(rest[0]) if room == "workflows" and rest else 0


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_down(module):
    for imported in filter(None, map(module_of, imports(MODULES[module]))):
        assert height(imported) <= height(module), f"{module} imports {imported}, which is above it"


def test_no_circles():
    graph = {
        module: {of for name in imports(path) if (of := module_of(name))} - {module} for module, path in MODULES.items()
    }
    TopologicalSorter(graph).prepare()


@pytest.mark.parametrize("module", MODULES)
def test_reserved_imports(module):
    for imported in imports(MODULES[module]):
        for package, allowed in ONLY.items():
            if inside(imported, package) and not inside(module, package):
                assert any(inside(module, who) for who in allowed), f"{module} may not import {imported}"


def test_a_type_has_its_name_to_itself():
    homes = defaultdict(set)
    for module, path in MODULES.items():
        for name in types(path):
            homes[name].add(ARCHITECTURES if name in PARTS and inside(module, ARCHITECTURES) else module)
    assert not {name: sorted(where) for name, where in homes.items() if len(where) > 1}
