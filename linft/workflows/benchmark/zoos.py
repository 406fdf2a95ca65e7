"""The models there are to choose from: those that did not see a target, and the zoos within a zoo."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

from linft.workflows.benchmark.protocol import Target
from linft.zoo import directory


@cache
def digest_of(file: Path) -> str:
    """A short hash of a file of weights."""
    return sha256(file.read_bytes()).hexdigest()[:16]


def candidates(zoo: Path, target: str) -> list[Path]:
    """The models of a zoo that did not see the target's data, by name.

    A model saw what it was trained on, with other domains at once or not, and what the model that it
    started from saw. Files that cannot be read are left out; `linft zoo list` names them.

    Example:
      >>> from linft.zoo.load import SHIPPED
      >>> len(candidates(SHIPPED, "digits")), len(candidates(SHIPPED, "mnist"))
      (34, 25)
    """
    entries = [entry for entry in directory.entries(zoo) if not entry.failed]
    sources = {entry.name: directory.opened(entry.path)[1]["source"] for entry in entries}
    return [entry.path for entry in entries if target not in _seen(entry.name, sources)]


def _seen(model: str, sources: Mapping[str, Mapping[str, Any]]) -> set[str]:
    source, others = sources.get(model, {}), {name: of for name, of in sources.items() if name != model}
    start = source.get("init")
    return {str(source.get("data")), *(source.get("domains") or ()), *(_seen(start, others) if start else ())}


@dataclass(frozen=True)
class Zoo:
    """Models to choose from."""

    name: str
    """In a file's name."""
    title: str
    reference: str
    """The expert that gains are over."""
    models: Mapping[str, tuple[str, ...]]
    """Target -> those that did not see it."""


def zoos(whole: Path, targets: Sequence[Target], reference: str, domain: str) -> list[Zoo]:
    """The single-domain experts, those of one architecture, and the domains of a multi-domain expert, if two or more.

    Args:
      whole: the directory.
      reference: a single-domain expert; also of one architecture is what it is one of.
      domain: one of a multi-domain expert's models.
    """
    about = {entry.name: directory.opened(entry.path)[1] for entry in directory.entries(whole) if not entry.failed}
    many = {name for name, meta in about.items() if meta["source"].get("domains")}
    network = about[reference]["architecture"] if reference in about else None
    alike = {name for name in set(about) - many if about[name]["architecture"] == network}
    wanted = [
        ("single", "Single-domain experts", reference, set(about) - many),
        ("single_alike", f"Single-domain experts of the reference's architecture ({reference})", reference, alike),
        ("multi", "Domains of the multi-domain expert", domain, many),
    ]
    found = []
    for name, title, expert, among in wanted:
        models = {t.name: tuple(p.stem for p in candidates(whole, t.name) if p.stem in among) for t in targets}
        if min(map(len, models.values())) > 1:
            found.append(Zoo(name, title, expert, models))
    return found
