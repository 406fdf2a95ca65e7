"""The zoos within a zoo: single-domain experts, those of one architecture, the domains of a multi-domain expert."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from linft.workflows.benchmark.settings import Target
from linft.workflows.benchmark.truth import candidates
from linft.zoo import directory


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
    """The zoos of two models or more.

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
