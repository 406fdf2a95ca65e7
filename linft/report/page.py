"""The page of a report, its figures and its table, on disk."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from markupsafe import Markup

from linft.core.band import Band, BandAgreement
from linft.core.errors import LinftError
from linft.report import reading, runs, style, templates, trajectories, verdict, words
from linft.report.figures import FIGURES
from linft.report.reading import Result
from linft.workflows.compare.agreement import Agreement, Level
from linft.workflows.compare.attribution import Link

SETTINGS_IN_WORDS = {"batch_size": "all training images", "clip_norm": "off"}
"""What null means for a setting of the recipe."""

ENDS = ("train_loss", "test_loss", "train_accuracy", "test_accuracy")


@dataclass(frozen=True)
class Shown:
    """A figure of the page: its words, and the SVG for a column of text and for a phone."""

    title: str
    caption: str
    wide: Markup
    narrow: Markup


@dataclass(frozen=True)
class TableRow:
    """A line of the table of runs: the values at the end, and the error against the reference."""

    label: str
    colour: str
    train_loss: float | None
    test_loss: float | None
    train_accuracy: float | None
    test_accuracy: float | None
    note: str
    seconds: float
    diverged_at: int | None
    is_reference: bool
    agreement: Agreement | None


@dataclass(frozen=True)
class SeedsRow:
    """A line of the table of seeds: what they span, and how that lies to the real ones."""

    label: str
    colour: str
    band: Band
    is_reference: bool
    agreement: BandAgreement | None


@dataclass(frozen=True)
class LinkInWords:
    """A link of the attribution, and what it means."""

    link: Link
    cause: str
    meaning: str


@dataclass(frozen=True)
class Levels:
    """The table of updates that each run needs to come down to a loss: the levels, and a row a run."""

    heads: Sequence[Level]
    rows: Mapping[str, Sequence[Level]]


def write(result: Result, directory: Path) -> Path:
    """Write `report.html`, `trajectories.csv` and `figures/`; see `linft.report.write`."""
    contents: dict[str, bytes] = {"trajectories.csv": trajectories.table(every_run(result)).encode()}
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
        seeds=_seeds(result),
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


def _rows(result: Result) -> list[TableRow]:
    return [
        TableRow(
            label=runs.label(name),
            colour=runs.CURVES[name].colour,
            **{key: reading.last(run, key) for key in ENDS},
            note="; ".join(filter(None, (run.note, run.certificate and str(run.certificate)))),
            seconds=run.seconds,
            diverged_at=run.diverged_at,
            is_reference=name == result.reference,
            agreement=reading.agreement(result, name),
        )
        for name, run in reading.curves(result).items()
    ]


def every_run(result: Result) -> reading.RunTrajectories:
    """The runs, and those of other seeds."""
    return result.runs if result.seeds is None else result.runs | result.seeds.runs


def _seeds(result: Result) -> list[SeedsRow]:
    held = {} if result.seeds is None else result.seeds.agreement
    return [
        SeedsRow(runs.label(name), runs.CURVES[name].colour, band, name == result.reference, held.get(name))
        for name, band in reading.bands(result).items()
    ]


def _levels(result: Result) -> Levels | None:
    compared = {
        runs.label(name): found.steps_to_loss
        for name in reading.curves(result)
        if (found := reading.agreement(result, name)) is not None
    }
    return Levels(next(iter(compared.values())), compared) if compared else None


def _links(result: Result) -> list[LinkInWords]:
    return [
        LinkInWords(link, words.capital(link.cause), runs.MEANINGS.get(frozenset((link.start, link.end)), ""))
        for link in result.attribution.links
    ]


def _recipe(result: Result) -> dict[str, str]:
    return {
        field.replace("_", " "): SETTINGS_IN_WORDS.get(field, words.NONE) if value is None else words.plain(value)
        for field, value in asdict(result.recipe).items()
    }


def _glossary(result: Result) -> list[runs.RunStyle]:
    linked = {end for link in result.attribution.links for end in (link.start, link.end)}
    return [style for name, style in runs.STYLES.items() if name in reading.curves(result) or name in linked]
