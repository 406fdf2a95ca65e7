"""What the page says, and what it leaves out."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
from pages import Reader

from linft.core.band import BandAgreement, band
from linft.core.base import Certificate, Curves
from linft.core.trajectory_json import SavedRunningCurves, SavedTrajectory, restored
from linft.report.figures import FIGURES
from linft.report.page import every_run, render
from linft.report.runs import CURVES
from linft.report.trajectories import table
from linft.report.verdict import verdict
from linft.workflows.compare.attribution import Attribution
from linft.workflows.compare.result import ComparisonResult, SeedBands


@pytest.fixture(scope="module")
def page(written: Path) -> str:
    return (written / "report.html").read_text()


@pytest.fixture
def without_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """A page of words alone, which is made at once."""
    monkeypatch.setattr("linft.report.page.FIGURES", {})


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures with their words and places, of which nothing is drawn."""
    monkeypatch.setattr("linft.report.style.to_svg", lambda figure, salt: "<svg></svg>")


def test_nothing_is_fetched_or_run(page: str):
    read = Reader(page)
    assert not read.tags & {"script", "link", "img", "iframe"}
    assert all(value.startswith("#") for name, value in read.attributes if name in ("src", "href", "xlink:href"))
    assert not re.search(r"https?://|@import|url\((?!#)", page)


def test_identifiers_are_unique_and_references_resolve(page: str):
    attributes = Reader(page).attributes
    names = [value for name, value in attributes if name == "id"]
    assert len(names) == len(set(names))
    used = {value[1:] for name, value in attributes if name == "href"} | set(re.findall(r"url\(#([^)]+)\)", page))
    assert used and used <= set(names)


def test_structure(page: str):
    read = Reader(page)
    assert {"main", "header", "footer", "figure", "figcaption", "table", "dl"} <= read.tags
    assert page.count('role="img" aria-label="') == 2 * len(FIGURES), "every figure for a desk and for a phone"
    assert page.count("<th ") == page.count('<th scope="')
    assert '<meta name="viewport" content="width=device-width' in page


def test_markup_in_names_is_text(page: str):
    assert "<b>bold</b>" not in page
    assert "<b>bold</b>" in Reader(page).text


def test_the_numbers_are_there(page: str, result: ComparisonResult):
    text = Reader(page).text
    for run in result.runs.values():
        assert f"{run.train_loss[-1]:.3f}" in text
        assert f"{100 * run.test_accuracy[-1]:.1f}%" in text
    assert f"{100 * result.agreement['dual'].train_loss_error:.1f}% off on average" in text
    assert "The prediction comes down to the same losses 25% later" in text
    assert "The largest term of the gap is “beyond first order”" in text
    assert "Everything beyond first order in the weights" in text


def test_a_prediction_that_says_how_far_it_holds_is_the_one_that_is_told_of(undrawn: None, result: ComparisonResult):
    moving = replace(result.runs["dual"], certificate=Certificate(0.037, 0.1, 2, 1.25), note="")
    runs, agreements = result.runs | {"moving": moving}, result.agreement | {"moving": result.agreement["dual"]}
    known = replace(result, runs=runs, agreement=agreements)
    assert verdict(known)[0].startswith("The kernel moving along its predicted path ")
    assert verdict(known)[1] == "Before anything was trained, the prediction told an error of at most 3.7%."
    text = Reader(render(known)).text
    assert "expected to be off by at most 3.7 %; within 10 % up to step 2, a train loss of 1.25" in text
    assert "A dotted line ends what a prediction says of itself that it holds to within 10.0%." in text
    broken = replace(moving, certificate=Certificate(None, 0.1, 2, 1.25))
    assert verdict(replace(known, runs=runs | {"moving": broken}))[0].startswith("The tangent kernel ")


def test_what_running_averages_come_to_is_told(undrawn: None, result: ComparisonResult):
    real, dual = result.runs["finetuned"], result.runs["dual"]
    ends = [SavedRunningCurves(steps=[6], **{name: [end] for name in Curves._fields}) for end in (0.25, 0.5)]
    runs = {"finetuned": replace(real, running=ends[0]), "dual": dual}
    told = "With the running averages of batch norm’s statistics test accuracy ended at 25.0% (loss 0.250); predicted"
    assert f"{told} by a kernel that moves alone." in verdict(replace(result, runs=runs))
    runs["moving"] = replace(dual, running=ends[1])
    assert f"{told} were 50.0% (loss 0.500) by “Predicted, the kernel moving”." in verdict(replace(result, runs=runs))
    assert not any("running averages" in line for line in verdict(result))


def test_what_orders_of_the_images_span_is_drawn_and_told(result: ComparisonResult):
    real, dual = (restored(result.runs[name]) for name in ("finetuned", "dual"))
    bands = [band({0: real, 1: dual}), band({0: dual, 1: dual})]
    assert bands[0] is not None and bands[1] is not None
    seeds = SeedBands(
        runs={"dual-seed-1": result.runs["dual"]},
        real=bands[0],
        predicted={"dual": bands[1]},
        agreement={"dual": BandAgreement(inside=0.62, error_over_width=1.75)},
    )
    page = render(replace(result, seeds=seeds))
    text = Reader(page).text
    assert "Over 2 seeds the mean prediction lies between the real runs at 62% of the steps" in text
    assert "its distance from their mean 1.8 times the width of their band" in text
    assert "Shaded, what several seeds span." in text and "shaded, what several seeds span" in text
    row = page[page.rindex("</span>Predicted from the kernel") :]
    assert "<td>62%</td><td>1.75</td>" in row
    assert (
        f"{min(real.train_loss[-1], dual.train_loss[-1]):.3f} to {max(real.train_loss[-1], dual.train_loss[-1]):.3f}"
        in text
    )
    plain = render(result)
    assert "seeds the mean" not in plain and "several seeds span" not in plain
    assert page.count("<path") > plain.count("<path"), "the bands"
    assert "dual-seed-1" in table(every_run(replace(result, seeds=seeds)))


def test_the_drift_that_was_predicted_stands_beside_the_real_one(page: str, result: ComparisonResult):
    assert result.kernel.drift is not None
    groups = result.kernel.drift.at[0].with_start.groups
    text = Reader(page).text
    assert text.count("Predicted, the kernel moving") == 2 * 2  # two figures, for a desk and for a phone
    assert text.count("0.55") == 2 * len(groups) + 1
    assert "The kernel’s correlation with shared labels goes from 1.00 to 0.80, predicted 0.55" in text
    assert all(f"Labels: {group}" in text for group in groups)
    alone = render(replace(result, kernel=replace(result.kernel, predicted_drift=None)))
    assert "Predicted, the kernel moving" not in Reader(alone).text
    assert set(re.findall(r'<figure id="(\w+)"', alone)) == set(FIGURES) - {"drift_by_step"}


def test_what_was_left_out_is_said_once_a_reason(without_figures: None, result: ComparisonResult):
    assert "Left out" not in render(result)
    skipped = {"feature_linearized": "slow", "linearized": "slow", "spectral": "not squared <error>"}
    text = Reader(render(replace(result, skipped=skipped))).text
    assert "Left out: “Features linearized”, “Linearized network (weights)” (slow)." in text
    assert "Left out: “Predicted, closed form” (not squared <error>)." in text


def test_null_is_an_en_dash(without_figures: None, result: ComparisonResult):
    dual, agreement = result.runs["dual"], result.agreement["dual"]
    changed = replace(
        result,
        runs=result.runs | {"dual": replace(dual, train_loss=[*dual.train_loss[:-1], None])},
        agreement={"dual": replace(agreement, train_loss_error=None)},
        stability=replace(result.stability, largest_stable_rate=None),
    )
    page = render(changed)
    assert re.search(r"<dt>Largest stable learning rate</dt><dd>–</dd>", page)
    assert re.search(r"<dt>licence</dt><dd>–</dd>", page)
    row = page[page.index("</span>Predicted from the kernel") :]
    assert row[: row.index("</tr>")].count("<td>–</td>") == 2
    assert "None" not in Reader(page).text and "nan" not in Reader(page).text


def test_divergence_is_told(undrawn: None, result: ComparisonResult):
    real, dual = result.runs["finetuned"], result.runs["dual"]
    curves = {key: getattr(dual, key)[:4] for key in ("test_loss", "train_accuracy", "test_accuracy")}
    distance = {group: values[:4] for group, values in dual.distance.items()}
    rising = [2.3, 5.0, 80.0, None]
    broken = replace(dual, diverged_at=5, train_loss=rising, steps=[0, 1, 2, 3], distance=distance, **curves)
    agreement = {"dual": replace(result.agreement["dual"], train_loss_error=None)}

    def of(real: SavedTrajectory, dual: SavedTrajectory) -> ComparisonResult:
        return replace(result, runs={"finetuned": real, "dual": dual}, agreement=agreement)

    page = render(of(real, broken))
    assert "at update 5" in page
    assert "predicted that this run diverges, at update 5; it did not" in page
    assert "A cross ends a run that diverged" in page
    lost = replace(real, diverged_at=6)
    assert "predicted that this run diverges: at update 5, really at 6." in verdict(of(lost, broken))[0]
    assert "did not predict that this run diverges: it did so at update 6." in verdict(of(lost, dual))[0]


@pytest.mark.parametrize(
    ("change", "missing", "heading"),
    [
        (
            lambda result: {"kernel": replace(result.kernel, drift=None)},
            {"drift", "drift_by_step"},
            "Images for the drift",
        ),
        pytest.param(
            lambda result: {"attribution": Attribution(links=[], total=None)},
            {"attribution"},
            "Where the gap comes from",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_missing_part_is_left_out(
    undrawn: None, page: str, result: ComparisonResult, change, missing: set[str], heading: str
):
    without = render(replace(result, **change(result)))
    assert set(re.findall(r'<figure id="(\w+)"', without)) == set(FIGURES) - missing
    assert heading in page and heading not in without


def test_a_run_that_nothing_predicted(undrawn: None, result: ComparisonResult):
    real = {"finetuned": result.runs["finetuned"]}
    alone = replace(result, runs=real, agreement={}, attribution=Attribution(links=[], total=None))
    page = render(alone)
    assert verdict(alone)[0].startswith("Trained only, not predicted")
    assert not re.search(r'<figure id="(hero|distance|attribution)"', page)


def test_every_run_has_its_own_look_and_place(without_figures: None, result: ComparisonResult):
    runs = dict.fromkeys(reversed(CURVES), result.runs["dual"])
    text = Reader(render(replace(result, runs=runs))).text
    glossary = text[text.index("The runs in words") :]
    places = [glossary.index(kind.what) for kind in CURVES.values()]
    assert places == sorted(places)
    assert len({kind.colour for kind in CURVES.values()}) == len(CURVES)
