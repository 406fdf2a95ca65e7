"""Imports go strictly downwards through the floors of the library."""

import ast
from pathlib import Path

import pytest

import linft

ROOT = Path(linft.__file__).parent

# A part is a module of the package or a whole subpackage, whose modules may import one another.
FLOORS: tuple[tuple[str, ...], ...] = (
    ("errors", "names"),
    ("trees", "files"),
    ("recipe", "preprocess", "task", "runtime", "interruption", "workers", "_compat"),
    ("recipe_fields", "parallel"),
    ("forward_pass",),
    ("base", "depth"),
    ("losses", "optim", "recipes", "models", "data", "linearization", "evaluation", "tracking", "checkpoints"),
    ("ntk", "delta", "batch_norm", "reinitialization"),
    ("training",),
    ("feeding", "measuring"),
    ("recording",),
    ("zoo", "finetuning", "multidomain", "predict"),
    ("agreement", "attribution", "pretraining", "spectrum", "store", "planning", "scores", "standings"),
    ("training_run", "scoring", "kernel_pictures"),
    ("protocol",),
    ("comparison", "sweeps", "ranking"),
    ("selection", "advising"),
    ("report",),
    ("cli",),
)
FLOOR = {part: number for number, parts in enumerate(FLOORS) for part in parts}

# module or subpackage -> the only ones that may import it
ONLY = {
    "linft._compat": ("linft.ntk", "linft.predict.flow"),
    "linft.ntk": (
        "linft.predict.tangent",
        "linft.predict.feature_tangent",
        "linft.predict.operator",
        "linft.predict.eigen",
        "linft.predict.choice",
        "linft.comparison",
        "linft.scores.evidence",
        "linft.cli.kernel",
    ),  # to predict; its eigenvalues; whether it fits; to see it change; to score; to keep it
    "matplotlib": ("linft.report",),
}

MODULES = {
    ".".join(path.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(ROOT.rglob("*.py"))
    if path != ROOT / "__init__.py"  # the lazy table of names, which knows them all
}


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
    return found


def part(module: str) -> str:
    """The part of linft where a module, or a name that linft loads lazily, lives: `linft.ntk.empirical` in `ntk`."""
    name = module.split(".")[1]
    return linft._HOME[name].split(".")[1] if name in linft._HOME else name


def inside(module: str, package: str) -> bool:
    return module == package or module.startswith(package + ".")


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_down(module):
    here = part(module)
    assert here in FLOOR, f"give {module} a floor"
    for imported in imports(MODULES[module]):
        if inside(imported, "linft") and imported != "linft" and part(imported) != here:
            above = part(imported)
            assert FLOOR.get(above, -1) < FLOOR[here], f"{module} imports {imported}, which is not below it"


@pytest.mark.parametrize("module", MODULES)
def test_reserved_imports(module):
    for imported in imports(MODULES[module]):
        for package, allowed in ONLY.items():
            if inside(imported, package) and not inside(module, package):
                assert any(inside(module, who) for who in allowed), f"{module} may not import {imported}"
