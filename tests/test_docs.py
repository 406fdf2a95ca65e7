"""The documentation: its Python runs, its commands parse, the files that it names are there."""

import pkgutil
import re
import shlex
from pathlib import Path

import drawn
import pytest

import linft
from linft.cli.main import _command

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs").rglob("*.md"))
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)#:\s]+)(?:#[^)\s]*)?\)")
OBJECT = re.compile(r"^::: (\S+)", re.MULTILINE)
FILE = re.compile(r"`((?:benchmarks|colab|docs|experiments|linft|tests)/[\w./-]+)`")


def blocks(page: Path, language: str) -> list[str]:
    return [code for of, code in BLOCK.findall(page.read_text(encoding="utf-8")) if of == language]


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")], ids=name)
def test_python_of_a_page_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """With a small network in the place of every architecture and shipped model."""
    monkeypatch.chdir(tmp_path)
    for home, function in ((linft, "load_model"), (linft.models, "create")):
        monkeypatch.setattr(home, function, lambda *_, **__: drawn.make(drawn.Normed(("stem", "stage3"))))
    known = {"__name__": page.stem}
    for code in blocks(page, "python"):
        exec(compile(code, page.name, "exec"), known)


def commands() -> list[str]:
    pages = [ROOT / "README.md", *PAGES]
    joined = "\n".join(code for page in pages for code in blocks(page, "sh")).replace("\\\n", " ")
    return [line for line in joined.splitlines() if line.startswith("linft ")]


@pytest.mark.parametrize("line", commands())
def test_commands_parse(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    arguments = shlex.split(line, comments=True)[1:]
    if "--config" in arguments:
        config = Path(arguments[arguments.index("--config") + 1])
        config.parent.mkdir()
        config.write_text("task: digits\nsteps: 40\n", encoding="utf-8")
    assert callable(_command(arguments))


@pytest.mark.parametrize("page", [ROOT / "README.md", *PAGES], ids=name)
def test_links_and_files_are_there(page: Path):
    text = page.read_text(encoding="utf-8")
    linked = [page.parent / target for target in LINK.findall(text)]
    named = [ROOT / target for target in FILE.findall(text)]
    assert [str(path) for path in linked + named if not path.exists()] == []


def test_every_public_name_is_on_a_page_of_the_api():
    named = [path for page in PAGES for path in OBJECT.findall(page.read_text(encoding="utf-8"))]
    for path in named:
        pkgutil.resolve_name(path)
    assert {f"linft.{name}" for name in linft._HOME} <= {*named}
    rooms = {path.name for path in (ROOT / "linft").iterdir() if (path / "__init__.py").exists()}
    assert rooms == {page.stem for page in PAGES if page.parent.name == "api"}


NAMED = re.compile(r"`(?P<file>linft/[\w/]+\.py)`, `(?P<name>\w+)`|`(?P<row>\w+)` of `(?P<table>linft/[\w/]+\.py)`")


def test_functions_on_the_page_of_the_architecture_are_in_the_files_named():
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    named = [(m["file"] or m["table"], m["name"] or m["row"]) for m in NAMED.finditer(re.sub(r"\n +", " ", page))]
    assert len(named) > 20
    gone = [
        (file, name)
        for file, name in named
        if not re.search(rf"^(?:def |class )?{name}\b", (ROOT / file).read_text(encoding="utf-8"), re.MULTILINE)
    ]
    assert gone == []
