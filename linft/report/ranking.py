"""The page of a ranking: every score of every model, what cannot be told apart, what it cost, and the kernels."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from markupsafe import Markup

from linft.report import style, templates
from linft.report.figures import kernels, scores
from linft.report.page import Shown
from linft.runtime.atomic_files import whole
from linft.scores.table import SCORES
from linft.workflows.rank.kernel_pictures import Picture
from linft.workflows.rank.result import RankingResult
from linft.workflows.rank.uncertainty import LEVEL


def write(
    ranking: RankingResult, directory: str | Path, pictures: Sequence[Picture] = (), epochs: Sequence[Picture] = ()
) -> Path:
    """Write `ranking.html`, one file with no script and nothing to fetch, of a ranking.

    Args:
      pictures: kernels of models, the best first.
      epochs: kernels of one model as it is fine-tuned.

    Returns:
      Its path.

    Raises:
      LinftError: the directory cannot be written to.
    """
    path = Path(directory) / "ranking.html"
    with whole(path) as partial:
        partial.write_text(render(ranking, pictures, epochs), encoding="utf-8", errors="backslashreplace")
    return path


def render(ranking: RankingResult, pictures: Sequence[Picture] = (), epochs: Sequence[Picture] = ()) -> str:
    """The page as HTML."""
    drawings = {
        "consensus": lambda narrow: scores.consensus(ranking, narrow),
        "kernels": lambda narrow: kernels.kernels(pictures, narrow),
        "epochs": lambda narrow: kernels.kernels(epochs, narrow),
    }
    figures = {}
    with style.settings():
        for name, draw in drawings.items():
            if (wide := draw(False)) is not None and (narrow := draw(True)) is not None:
                both = ((wide, name), (narrow, f"{name}-narrow"))
                svgs = [style.inline(style.to_svg(d.figure, salt), salt, d.title) for d, salt in both]
                figures[name] = Shown(wide.title, wide.caption, *map(Markup, svgs))
    return templates.template("ranking.html.jinja").render(
        ranking=ranking,
        figures=figures,
        palette=style.PALETTE,
        lead=lead(ranking),
        what={name: SCORES[name].what for name in ranking.scores if name in SCORES},
        costs=costs(ranking),
        level=LEVEL,
    )


def lead(ranking: RankingResult) -> list[str]:
    """What was found, in sentences."""
    models = [row for row in ranking.models if row.consensus is not None]
    if not models:
        return ["No score exists for any of the models."]
    first, of = models[0], len(ranking.models)
    if of == 1:
        return [f"{first.model} is the only model."]
    tied = [row.model for row in models[1:] if row.consensus and row.consensus.group == 0]
    names = f"{len(ranking.voting)} scores" if len(ranking.voting) > 1 else "one score"
    sentences = [f"Of {of} models, {first.model} comes first by {names}."]
    if tied:
        shown = ", ".join(tied[:5]) + (f" and {len(tied) - 5} more" if len(tied) > 5 else "")
        sentences.append(f"On {ranking.images} images {shown} cannot be told apart from it.")
    elif len(models) > 1:
        sentences.append("No other can be mistaken for it, as far as the sampled images go.")
    return sentences


def costs(ranking: RankingResult) -> dict[str, dict[str, float]]:
    """Part -> seconds for one model (the median) and for all; what all scores share comes first."""
    spent = [row.seconds for row in ranking.models]
    parts = [part for part in SHARED if any(part in each for each in spent)]
    found = {}
    for part in (*parts, *ranking.scores):
        seconds = [each[part] for each in spent if part in each]
        if seconds:
            label = SHARED.get(part, part)
            found[label] = {"each": float(np.median(seconds)), "all": float(np.sum(seconds))}
    return found


SHARED = {
    "load": "reading weights",
    "compile": "compiling",
    "pass": "the pass over the images",
    "kernel": "products of gradients",
    "tangent": "the kernel with a new head",
    "halves": "all scores on halves",
}
"""Parts that are no score's own."""
