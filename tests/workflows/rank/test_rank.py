"""Rankings: the numbers, what is reported and goes on, and what an interrupted one keeps."""

import json

import jax
import numpy as np
import pytest
from narrow import small_resnet

import linft
from linft.core.errors import LinftError
from linft.runtime import schema
from linft.scores.gather import ScoreGradients
from linft.workflows.rank import score_models, uncertainty
from linft.workflows.rank.rank import Ranking
from linft.workflows.rank.result import RankedSample, RankedTask, RankingResult
from linft.workflows.rank.score_models import LINES, ScoredModel

SCORES = ("lgc", "lfc", "leep", "knn", "random")


@pytest.fixture(scope="module")
def task():
    return linft.load_task("digits")


@pytest.fixture(scope="module")
def zoo(tmp_path_factory):
    """Three models of one architecture, and a file that is cut short."""
    directory = tmp_path_factory.mktemp("zoo")
    for i, classes in enumerate((3, 5)):
        model = small_resnet(classes, seed=i)
        source = {"data": f"source{i}", "class_names": list(map(str, range(classes)))}
        linft.save_model(model.replace(source=source), directory / f"model{i}.safetensors")
    (directory / "torn.safetensors").write_bytes((directory / "model0.safetensors").read_bytes()[:-10])
    return directory


@pytest.fixture(scope="module")
def plain():
    """Without a source's head."""
    return small_resnet(4, seed=9).replace(name="plain")


@pytest.fixture(scope="module")
def ranking(zoo, plain, task):
    files = [zoo / "model0.safetensors", str(zoo / "torn.safetensors"), zoo / "model1.safetensors"]
    return linft.rank([*files, plain], task, SCORES, per_class=4, seed=3, resamples=6)


def test_scores_are_those_of_the_functions(ranking, zoo, task):
    model = linft.load_model(zoo / "model1.safetensors")
    sample = task.max_per_class(4, seed=3)
    x = model.preprocess(sample.x_train)
    features = np.asarray(model.features(model.params, x))
    assert ranking.values("lfc")["model1"] == pytest.approx(linft.scores.lfc(features, sample.y_train), rel=1e-4)
    assert ranking.values("knn")["model1"] == linft.scores.knn(features, sample.y_train)
    probabilities = jax.nn.softmax(model.apply(model.params, x))
    assert ranking.values("leep")["model1"] == pytest.approx(linft.scores.leep(probabilities, sample.y_train), rel=1e-3)
    assert ranking.about.images == 40 and ranking.about.half == 20


def test_a_broken_file_and_a_missing_head_are_reported_and_the_rest_go_on(ranking):
    assert ranking.models == ("model0", "model1", "plain")
    assert list(ranking.failed) == ["torn"] and "was it cut short?" in ranking.failed["torn"]
    (plain,) = (one for one in ranking.measured if one.model == "plain")
    assert list(plain.undefined) == ["leep"] and "no source head" in plain.undefined["leep"]
    assert set(plain.scores) == set(SCORES) - {"leep"}
    assert set(ranking.values("leep")) == {"model0", "model1"}


def test_order_and_consensus(ranking):
    values = ranking.values("lfc")
    assert ranking.order("lfc") == tuple(sorted(values, key=values.get, reverse=True))
    assert ranking.voting == ("lgc", "lfc", "leep", "knn")
    columns = [np.array([ranking.values(s).get(m, np.nan) for m in ranking.models]) for s in ranking.voting]
    expected = dict(zip(ranking.models, uncertainty.consensus(columns), strict=True))
    assert ranking.consensus == pytest.approx(expected)
    assert ranking.order()[0] == max(expected, key=expected.get)
    assert set(ranking.groups("lfc").values()) <= {0, 1, 2} and min(ranking.groups("lfc").values()) == 0
    assert all(error > 0 for error in ranking.errors("lfc").values())


def test_costs_are_told(ranking):
    for one in ranking.measured:
        assert {"load", "compile", "pass", "kernel", "lfc", "halves"} <= set(one.seconds)
        assert all(spent >= 0 for spent in one.seconds.values())


def test_what_is_written(ranking, tmp_path):
    ranking.write(tmp_path)
    found = json.loads((tmp_path / "ranking.json").read_text())
    assert schema.read(tmp_path / "ranking.json", RankingResult) == ranking.result()
    assert [row["model"] for row in found["models"]] == list(ranking.order())
    first = found["models"][0]
    entry = first["scores"]["lfc"]
    error = ranking.errors("lfc")[first["model"]]
    assert entry["value"] == ranking.values("lfc")[first["model"]]
    assert entry["high"] - entry["low"] == pytest.approx(2 * uncertainty.margin() * error)
    assert found["failed"] == ranking.failed
    lines = (tmp_path / "ranking.csv").read_text().splitlines()
    assert lines[0].startswith("model,architecture,data,score,value")
    assert sum(line.startswith("model0,") for line in lines) == 1 + len(SCORES)
    assert any(line.startswith("plain,") and "no source head" in line for line in lines)


def test_two_processes_give_the_same(zoo, task, tmp_path):
    files = [zoo / f"model{i}.safetensors" for i in (0, 1)]
    alone = linft.rank(files, task, ("lfc", "knn"), per_class=3, resamples=2)
    both = linft.rank(files, task, ("lfc", "knn"), per_class=3, resamples=2, jobs=2, output=tmp_path)
    for score in ("lfc", "knn"):
        assert both.values(score) == pytest.approx(alone.values(score), rel=1e-5)


class Called(Exception):
    """Something was computed."""


def test_an_interrupted_ranking_goes_on(zoo, plain, task, tmp_path, monkeypatch):
    models = [zoo / "model0.safetensors", zoo / "model1.safetensors", plain]

    def interrupt(what, done, total):
        if done == 1:
            raise KeyboardInterrupt

    def call(**options):
        return linft.rank(models, task, ("lfc",), per_class=2, resamples=2, output=tmp_path, **options)

    with pytest.raises(KeyboardInterrupt):
        call(progress=interrupt)
    kept = (tmp_path / LINES).read_text()
    assert [json.loads(line)["measured"]["model"] for line in kept.splitlines() if line] == ["model0"]
    other = kept.replace('"model":', '"name":')  # of another version
    (tmp_path / LINES).write_text(kept + other + kept.strip()[:40])  # the last as a killed process leaves it
    seen = []
    real = score_models.load_model
    monkeypatch.setattr(score_models, "load_model", lambda name: seen.append(name) or real(name))
    whole = call()
    assert seen == [zoo / "model1.safetensors"]
    monkeypatch.setattr(score_models, "gather", lambda *a, **k: (_ for _ in ()).throw(Called))
    assert call().values("lfc") == whole.values("lfc")
    with pytest.raises(Called):
        linft.rank(models, task, ("lfc", "knn"), per_class=2, resamples=2, output=tmp_path)  # another score
    with pytest.raises(Called):
        linft.rank(models, task, ("lfc",), per_class=2, seed=1, resamples=2, output=tmp_path)  # other images


def test_a_class_with_one_image_and_gaps(plain, task):
    keep = np.concatenate([np.flatnonzero(task.y_train == c)[:k] for c, k in ((0, 5), (3, 5), (9, 1))])
    odd = task.replace(x_train=task.x_train[keep], y_train=task.y_train[keep])
    found = linft.rank([plain], odd, ("lfc", "knn", "linear_probe", "logme", "hscore"), resamples=3)
    assert found.about.images == 11 and found.about.task.classes == 3
    (one,) = found.measured
    assert set(one.scores) | set(one.undefined) == set(found.scores) and "lfc" in one.scores
    assert all(np.isfinite(value) for value in one.scores.values())


def test_gradients_of_layer_groups(plain, task):
    near = linft.rank([plain], task, ("lgc",), per_class=2, resamples=0)
    deep = linft.rank([plain], task, ("lgc",), per_class=2, resamples=0, gradients=ScoreGradients(("head",)))
    assert near.values("lgc") != deep.values("lgc")
    assert deep.about.gradients.groups == ("head",)


def few(task, keep):
    return task.replace(x_train=task.x_train[keep], y_train=task.y_train[keep])


BAD = {
    "no model": (lambda zoo, task: linft.rank([], task), "there is no model to rank"),
    "unknown score": (lambda zoo, task: linft.rank([zoo / "model0.safetensors"], task, ("lgz",)), "no score lgz"),
    "twins": (lambda zoo, task: linft.rank([zoo / "model0.safetensors"] * 2, task), "two models are called model0"),
    "only failed": (
        lambda zoo, task: linft.rank([zoo / "torn.safetensors", "nowhere"], task, ("lfc",)),
        "none of 2 models could be scored",
    ),
    "one class": (
        lambda zoo, task: linft.rank([zoo / "model0.safetensors"], few(task, task.y_train == 1), ("lfc",)),
        "25 training images of 1 classes",
    ),
    "fewer images than classes": (
        lambda zoo, task: linft.rank(
            [zoo / "model0.safetensors"], few(task, [int(np.argmax(task.y_train == c)) for c in range(7)]), ("lfc",)
        ),
        "7 training images of 7 classes",
    ),
    "no shots": (lambda zoo, task: linft.rank([zoo / "model0.safetensors"], task, per_class=0), "max_per_class(0)"),
    "no such layer group": (
        lambda zoo, task: linft.rank(
            [zoo / "model0.safetensors"], task, ("lgc",), per_class=2, gradients=ScoreGradients(("stage9",))
        ),
        "no layer group stage9",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case, zoo, task):
    call, message = BAD[case]
    with pytest.raises(LinftError) as error:
        call(zoo, task)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_a_name_that_leads_nowhere_is_told_before_anything_is_trained(task, monkeypatch):
    monkeypatch.setattr(score_models, "small_network", lambda *_: pytest.fail("trained"))
    with pytest.raises(LinftError, match="the first: no model 'nowhere'"):
        linft.rank(["nowhere"], task, per_class=2)


def measured(model, scores, halves):
    return ScoredModel(model, "net", "data", scores, halves, {}, {})


def test_groups_of_the_consensus():
    halves = {"a": [1.0, 1.2], "b": [1.1, 1.0], "c": [0.1, 0.2]}
    about = RankedSample(
        task=RankedTask(name="made up", classes=2, class_names=["a", "b"]),
        images=10,
        per_class=5,
        seed=0,
        scores=["lfc"],
        gradients=ScoreGradients(),
        resamples=2,
        half=5,
        seconds=0.0,
    )
    ranking = Ranking(about, tuple(measured(m, {"lfc": h[0]}, {"lfc": h}) for m, h in halves.items()), {})
    assert ranking.order() == ("b", "a", "c")
    assert ranking.consensus == {"a": 0.5, "b": 1.0, "c": 0.0}
    assert ranking.consensus_groups == {"a": 0, "b": 0, "c": 1}
    assert ranking.groups("lfc") == {"a": 0, "b": 0, "c": 1}
    with pytest.raises(LinftError, match="'leep' was not computed"):
        ranking.errors("leep")
