"""The page of a ranking: what it says, and that it stands alone."""

import re
from dataclasses import replace

import numpy as np
import pytest
from narrow import small_resnet
from pages import Reader

import linft
from linft.report import ranking as page
from linft.workflows.rank.kernel_pictures import Picture, picture
from linft.workflows.rank.result import RankedModel, RankedScore


@pytest.fixture(scope="module")
def ranking():
    models = [
        small_resnet(3, seed=i).replace(
            name=name, source={"data": "<i>birds</i>", "class_names": list("abc")} if i else {"head": "new"}
        )
        for i, name in enumerate(("plain", "first", "second"))
    ]
    task = linft.load_task("digits")
    scores = ("lfc", "leep", "knn", "random")
    ranking = linft.rank([*models, "nowhere"], task, scores, per_class=3, resamples=4)
    return ranking.result(), [picture(model, task.max_per_class(3)) for model in models[:2]]


@pytest.fixture(scope="module")
def html(ranking):
    result, pictures = ranking
    return page.render(result, pictures, [*pictures[:1]])


def test_it_stands_alone(html):
    read = Reader(html)
    assert not read.tags & {"script", "link", "iframe"}
    links = [value for name, value in read.attributes if name in ("src", "href", "xlink:href")]
    assert all(value.startswith(("#", "data:image/png;base64,")) for value in links)
    assert not re.search(r"https?://|@import|url\((?!#)", html)
    names = [value for name, value in read.attributes if name == "id"]
    assert len(names) == len(set(names))


def test_every_score_of_every_model_is_there(html, ranking):
    result, _ = ranking
    text = Reader(html).text
    for row in result.models:
        assert row.model in text
        for entry in row.scores.values():
            assert f"{entry.value:.3g}".replace("-", "−") in text
    assert result.models[0].model + " comes first by 3 scores" in text
    assert "nowhere" in text and "no model 'nowhere'" in text
    assert "plain: leep" in text and "no source head" in text
    assert "the pass over the images" in text and "compiling" in text
    assert "None" not in text and "nan" not in text.lower()
    assert "<i>birds</i>" in text, "markup in names is text"


def test_models_that_tie_are_named(ranking):
    result, _ = ranking

    def models(**groups: int) -> list[RankedModel]:
        entries = {name: RankedScore(value=1.0, low=None, high=None, group=group) for name, group in groups.items()}
        return [replace(result.models[0], model=name, consensus=entry) for name, entry in entries.items()]

    said = page.lead(replace(result, models=models(a=0, b=0, c=1)))
    assert said[0].startswith("Of 3 models, a comes first") and said[1].endswith("b cannot be told apart from it.")
    assert "No other can be mistaken for it" in page.lead(replace(result, models=models(a=0, b=1, c=1)))[1]


def test_figures(html):
    assert set(re.findall(r'<figure id="(\w+)"', html)) == {"consensus", "kernels", "epochs"}
    assert html.count("data:image/png") >= 8


def test_without_pictures_the_kernels_are_left_out(ranking):
    plain = page.render(ranking[0])
    assert "<h2>The kernels</h2>" not in plain


def test_pictures_are_sorted_standardized_and_small():
    task = linft.load_task("digits").max_per_class(30)
    shuffled = np.random.default_rng(0).permutation(len(task.y_train))
    mixed = task.replace(x_train=task.x_train[shuffled], y_train=task.y_train[shuffled])
    shown = picture(small_resnet(3), mixed)
    assert isinstance(shown, Picture) and shown.theta.shape == shown.theta_f.shape == (128, 128)
    assert abs(shown.theta.mean()) < 0.05
    np.testing.assert_allclose(shown.borders, np.arange(10) / 10)
    within = np.mean([shown.theta_f[i, i] for i in range(128)])
    assert within > shown.theta_f.mean()
    assert -1 < shown.lfc < 1 and -1 < shown.lgc < 1
