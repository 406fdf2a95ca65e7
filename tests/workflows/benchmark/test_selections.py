"""Choices from rows, and what is said of them."""

from pathlib import Path

import numpy as np
import pytest

from linft.core.errors import LinftError
from linft.runtime import json_lines, schema
from linft.workflows.benchmark.scored import SampleScores
from linft.workflows.benchmark.selections import CHANCE, ORACLE, selections, summary, weights
from linft.workflows.benchmark.truth import FinishedCase

RESULTS = Path(__file__).parents[3] / "experiments" / "results"
MODELS = ("a", "b", "c", "d")
ALL = {"one": MODELS, "two": MODELS}


def truth(seeds=(0, 1), rates=(0.1, 0.2), device="cpu"):
    """Model d is the best on every target; each model is better at the second rate."""
    same = {"train_images": 50, "test_images": 20, "steps": 4, "batch_size": 10, "diverged_at": None, "device": device}
    losses = {"test_loss": 1.0, "train_loss": 0.1, "train_accuracy": 1.0}
    return [
        FinishedCase(key=f"{target} {model} {rate} {seed}", target=target, shots=5, rate=rate, seed=seed, model=model,
                     test_accuracy=0.1 * i + rate, seconds=2.0 + i, **same, **losses)
        for target in ("one", "two") for seed in seeds for i, model in enumerate(MODELS) for rate in rates
    ]  # fmt: skip


def scored(seeds=(0, 1)):
    """One score that is right, one that is wrong, one that does not exist for model a."""
    same = {"per_class": 25, "images": 50, "weights": "0", "compiling": 0.0, "device": "cpu"}
    return [
        SampleScores(sample=f"{target} {seed}", target=target, shots=5, seed=seed, model=model,
                     scores={"right": i, "wrong": -i, **({"some": -i} if i else {})},
                     undefined={} if i else {"some": "it is the first"}, seconds={"right": 0.1}, **same)
        for target in ("one", "two") for seed in seeds for i, model in enumerate(MODELS)
    ]  # fmt: skip


@pytest.mark.parametrize(("file", "kind"), [("truth.jsonl", FinishedCase), ("scores.jsonl", SampleScores)])
def test_rows_that_were_published_are_read_as_they_were_written(file, kind):
    path = RESULTS / "selection" / "laptop" / file
    rows = schema.read_rows(path, kind)
    assert len(rows) > 1000 and list(map(schema.content, rows)) == json_lines.read(path)


def test_a_model_counts_by_its_best_rate_and_its_quickest_run():
    (first, *_) = selections(truth(), scored(), ALL)
    assert first.models == MODELS
    np.testing.assert_allclose(first.accuracies, [0.2, 0.3, 0.4, 0.5])
    np.testing.assert_allclose(first.finetuning_seconds, [2, 3, 4, 5])
    assert np.isnan(first.scores["some"][0]) and first.scores["right"].tolist() == [0, 1, 2, 3]
    assert first.of("c", first.accuracies) == pytest.approx(0.4) and np.isnan(first.of("e", first.accuracies))


def test_only_what_is_finished_for_all_models_counts():
    unfinished = [r for r in truth() if (r.seed, r.model) != (1, "b") and (r.rate, r.model) != (0.2, "c")]
    found = selections(unfinished, scored(), ALL)
    assert [(c.target, c.seed) for c in found] == [("one", 0), ("two", 0)]
    np.testing.assert_allclose(found[0].accuracies, [0.1, 0.2, 0.3, 0.4])  # the first rate alone
    assert selections(truth(), [], ALL) == []


def test_seconds_of_several_devices_do_not_compare():
    found = selections([*truth((0,)), *truth((1,), device="gpu")], scored(), ALL)
    assert [np.isfinite(c.finetuning_seconds).all() for c in found if c.target == "one"] == [True, False]


def test_among_some_models():
    assert selections(truth(), scored(), {"one": ("d", "b")})[0].models == ("b", "d")


def test_summary_of_scores_that_are_right_and_wrong():
    found = summary(selections(truth(), scored(), ALL), "b")
    assert found["right"]["gain of top 1"].mean == pytest.approx(0.2)
    assert found["wrong"]["gain of top 1"].mean == pytest.approx(-0.1)
    assert found["right"]["trials until the best"].mean == 1 and found["wrong"]["trials until the best"].mean == 4
    assert found["some"]["trials until the best"].mean == 3  # the model without a score comes last
    for name, wins in (("right", 1), ("wrong", 0), (ORACLE, 1)):
        assert found[name]["regret of top 1"].wins == wins
    assert 2 < found[CHANCE]["trials until the best"].mean < 3
    assert all(np.isnan(of["gain of top 3"].mean) for of in summary(selections(truth(), scored(), ALL), "e").values())


def test_interval_is_the_bootstrap_of_means():
    """The spread of drawn means is that of a mean over targets: the population's deviation over √targets."""
    rng = np.random.default_rng(0)
    values, present = rng.normal(size=(40, 1)), np.ones((40, 1), bool)
    drawn = weights(present, 4000, seed=1)
    assert drawn.sum(axis=(1, 2)) == pytest.approx(1)
    means = np.einsum("dtc,tc->d", drawn, values)
    assert means[0] == pytest.approx(values.mean())
    assert means[1:].std() == pytest.approx(values.std() / 40**0.5, rel=0.05)


def test_nothing_finished():
    with pytest.raises(LinftError, match="run on"):
        summary([], "a")
