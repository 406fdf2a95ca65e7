"""The report of the benchmark of model selection: `tables.md` and figures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from linft.report import style
from linft.report.selection import figures, tables
from linft.runtime.atomic_files import whole
from linft.workflows.benchmark.selections import Selection
from linft.workflows.benchmark.zoos import Zoo


@dataclass(frozen=True)
class ZooResult:
    """What came of choosing from a zoo."""

    zoo: Zoo
    selections: Sequence[Selection]
    by_images: Mapping[str, Sequence[Selection]]
    """Images a class that scores see, in words -> the selections of "full" with such scores."""


def write(results: Sequence[ZooResult], about: str, directory: Path) -> list[Path]:
    """Write the tables and figures of every zoo with a finished selection; the paths that were written.

    Args:
      about: what was run, for the head of the tables.
    """
    sections, drawn = [f"# Which score picks the model that fine-tunes best?\n\n{about}"], {}
    with style.settings():
        for result in results:
            if result.selections:
                sections.append(_section(result))
                drawn |= _drawn(result)
    paths = [directory / "tables.md", *(directory / f"{name}.svg" for name in drawn)]
    for path, content in zip(paths, ("\n".join(sections), *drawn.values()), strict=True):
        with whole(path) as partial:
            partial.write_text(content, encoding="utf-8", errors="backslashreplace")
    return paths


def _section(result: ZooResult) -> str:
    selections, reference = result.selections, result.zoo.reference
    parts = [f"## {result.zoo.title}\n", tables.accuracies(selections, reference)]
    numbers = list(dict.fromkeys(selection.shots for selection in selections))
    if len(numbers) > 1:
        parts += ["### All numbers of images\n", tables.scores(selections, reference)]
    for shots in numbers:
        own = [selection for selection in selections if selection.shots == shots]
        parts += [f"### {tables.images(shots).capitalize()}\n", tables.scores(own, reference)]
    parts += ["### Costs\n", tables.costs(selections, reference)]
    return "\n".join(parts)


def _drawn(result: ZooResult) -> dict[str, str]:
    """Name -> SVG."""
    selections, reference, name = result.selections, result.zoo.reference, result.zoo.name
    pictures: dict[str, Figure] = {
        "gains": figures.gains(selections, reference),
        "measures": figures.measures(selections, reference),
        "accuracies": figures.accuracies(selections, reference),
    }
    by_images = {images: own for images, own in result.by_images.items() if own}
    if len(by_images) > 1:
        pictures["images"] = figures.images_a_class(by_images, reference)
    return {f"{name}_{what}": style.to_svg(picture, f"{name}_{what}") for what, picture in pictures.items()}
