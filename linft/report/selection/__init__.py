"""The report of the benchmark of model selection: `tables.md` and figures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from linft.report import style
from linft.report.selection import figures, tables
from linft.runtime.atomic_files import whole
from linft.workflows.benchmark.choices import Choice
from linft.workflows.benchmark.zoos import Zoo


@dataclass(frozen=True)
class Result:
    """What came of choosing from a zoo."""

    zoo: Zoo
    choices: Sequence[Choice]
    by_images: Mapping[str, Sequence[Choice]]
    """Images a class that scores see, in words -> the choices of "full" with such scores."""


def write(results: Sequence[Result], about: str, directory: Path) -> list[Path]:
    """Write the tables and figures of every zoo with a finished choice; the paths that were written.

    Args:
      about: what was run, for the head of the tables.
    """
    sections, drawn = [f"# Which score picks the model that fine-tunes best?\n\n{about}"], {}
    with style.settings():
        for result in results:
            if result.choices:
                sections.append(_section(result))
                drawn |= _drawn(result)
    paths = [directory / "tables.md", *(directory / f"{name}.svg" for name in drawn)]
    for path, content in zip(paths, ("\n".join(sections), *drawn.values()), strict=True):
        with whole(path) as partial:
            partial.write_text(content, encoding="utf-8", errors="backslashreplace")
    return paths


def _section(result: Result) -> str:
    choices, reference = result.choices, result.zoo.reference
    parts = [f"## {result.zoo.title}\n", tables.accuracies(choices, reference)]
    numbers = list(dict.fromkeys(choice.shots for choice in choices))
    if len(numbers) > 1:
        parts += ["### All numbers of images\n", tables.scores(choices, reference)]
    for shots in numbers:
        own = [choice for choice in choices if choice.shots == shots]
        parts += [f"### {tables.images(shots).capitalize()}\n", tables.scores(own, reference)]
    parts += ["### Costs\n", tables.costs(choices, reference)]
    return "\n".join(parts)


def _drawn(result: Result) -> dict[str, str]:
    """Name -> SVG."""
    choices, reference, name = result.choices, result.zoo.reference, result.zoo.name
    pictures: dict[str, Figure] = {
        "gains": figures.gains(choices, reference),
        "measures": figures.measures(choices, reference),
        "accuracies": figures.accuracies(choices, reference),
    }
    by_images = {images: own for images, own in result.by_images.items() if own}
    if len(by_images) > 1:
        pictures["images"] = figures.images_a_class(by_images, reference)
    return {f"{name}_{what}": style.to_svg(picture, f"{name}_{what}") for what, picture in pictures.items()}
