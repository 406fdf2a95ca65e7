"""The page of a report, its figures and its table, on disk."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from linft.core.errors import LinftError
from linft.report import reading, runs, style, templates, trajectories, verdict, words
from linft.report.figures import FIGURES
from linft.report.reading import Result

SETTINGS_IN_WORDS = {"batch_size": "all training images", "clip_norm": "off"}
"""What null means for a setting of the recipe."""


@dataclass(frozen=True)
class Shown:
    """A figure of the page: its words, and the SVG for a column of text and for a phone."""

    title: str
    caption: str
    wide: Markup
    narrow: Markup


def write(result: Result, directory: Path) -> Path:
    """Write `report.html`, `trajectories.csv` and `figures/`; see `linft.report.write`."""
    reading.check(result)
    contents: dict[str, bytes] = {"trajectories.csv": trajectories.table(result).encode()}
    contents |= figure_files(result)
    contents["report.html"] = render(result).encode(errors="backslashreplace")
    try:
        for name, content in contents.items():
            path = directory / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    except OSError as error:
        raise LinftError(
            f"cannot write the report to {directory} ({error.strerror}); choose a directory that you can write to"
        ) from error
    return directory / "report.html"


def figure_files(result: Result) -> dict[str, bytes]:
    """Path -> content of every figure that has something to show, with its title in it."""
    contents = {}
    with style.settings():
        for name, draw in FIGURES.items():
            if (drawing := draw(result, False)) is not None:
                style.standalone(drawing)
                contents[f"figures/{name}.svg"] = style.to_svg(drawing.figure, name).encode()
                contents[f"figures/{name}.png"] = style.to_png(drawing.figure)
    return contents


def render(result: Result) -> str:
    """The page as HTML: all in one file, with no script and nothing to fetch."""
    return templates.template("page.html.jinja").render(
        result=result,
        figures=_figures(result),
        palette=style.PALETTE,
        verdict=verdict.verdict(result),
        grades=verdict.GRADES,
        tiles=verdict.tiles(result),
        rows=_rows(result),
        left_out=verdict.left_out(result),
        levels=_levels(result),
        links=_links(result),
        recipe=_recipe(result),
        glossary=_glossary(result),
    )


def _figures(result: Result) -> dict[str, Shown]:
    shown = {}
    with style.settings():
        for name, draw in FIGURES.items():
            if (wide := draw(result, False)) is not None and (narrow := draw(result, True)) is not None:
                both = ((wide, name), (narrow, f"{name}-narrow"))
                svgs = [style.inline(style.to_svg(d.figure, salt), salt, d.title) for d, salt in both]
                shown[name] = Shown(wide.title, wide.caption, *map(Markup, svgs))
    return shown


def _rows(result: Result) -> list[dict[str, Any]]:
    """The table of runs: the values at the end, and the error against the reference."""
    keys = ("train_loss", "test_loss", "train_accuracy", "test_accuracy")
    return [
        {key: reading.last(run, key) for key in keys}
        | {"label": runs.label(name), "colour": runs.CURVES[name].colour, "note": run.get("note"),
           "seconds": run.get("seconds"), "diverged_at": run.get("diverged_at"),
           "is_reference": name == reading.reference(result), "error": reading.agreement(result, name)}
        for name, run in reading.curves(result).items()
    ]  # fmt: skip


def _levels(result: Result) -> dict[str, Any]:
    """The table of updates that each run needs to come down to a loss: the levels, and a row a run."""
    compared = {
        name: levels
        for name in reading.curves(result)
        if (levels := reading.agreement(result, name).get("steps_to_loss"))
    }
    if not compared:
        return {}
    return {"heads": next(iter(compared.values())), "rows": {runs.label(name): row for name, row in compared.items()}}


def _links(result: Result) -> list[dict[str, Any]]:
    """The links of the attribution, each with a sentence on what it means."""
    return [
        link | {"cause": words.capital(link.get("cause") or ""),
                "meaning": runs.MEANINGS.get(frozenset((link.get("from"), link.get("to"))), "")}
        for link in (result.get("attribution") or {}).get("links") or []
    ]  # fmt: skip


def _recipe(result: Result) -> dict[str, str]:
    recipe = result.get("recipe") or {}
    return {
        field.replace("_", " "): SETTINGS_IN_WORDS.get(field, words.NONE) if value is None else words.plain(value)
        for field, value in recipe.items()
    }


def _glossary(result: Result) -> list[runs.Kind]:
    linked = {link.get(end) for link in _links(result) for end in ("from", "to")}
    return [kind for name, kind in runs.KINDS.items() if name in reading.curves(result) or name in linked]
