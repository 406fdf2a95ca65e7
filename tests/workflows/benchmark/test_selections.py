"""Choices from rows, and what is said of them."""

import numpy as np
import pytest

from linft.core.errors import LinftError
from linft.workflows.benchmark.selections import CHANCE, ORACLE, selections, summary, weights

MODELS = ("a", "b", "c", "d")
ALL = {"one": MODELS, "two": MODELS}


def truth(seeds=(0, 1), rates=(0.1, 0.2), device="cpu"):
    """Model d is the best on every target; each model is better at the second rate."""
    return [
        {"target": target, "shots": 5, "seed": seed, "model": model, "rate": rate,
         "test_accuracy": 0.1 * i + rate, "seconds": 2.0 + i, "device": device}
        for target in ("one", "two") for seed in seeds for i, model in enumerate(MODELS) for rate in rates
    ]  # fmt: skip


def scored(seeds=(0, 1)):
    """One score that is right, one that is wrong, one that does not exist for model a."""
    return [
        {"target": target, "shots": 5, "seed": seed, "model": model,
         "scores": {"right": i, "wrong": -i, **({"some": -i} if i else {})}, "seconds": {"right": 0.1}, "device": "cpu"}
        for target in ("one", "two") for seed in seeds for i, model in enumerate(MODELS)
    ]  # fmt: skip


def test_a_model_counts_by_its_best_rate_and_its_quickest_run():
    (first, *_) = selections(truth(), scored(), ALL)
    assert first.models == MODELS
    np.testing.assert_allclose(first.accuracies, [0.2, 0.3, 0.4, 0.5])
    np.testing.assert_allclose(first.finetuning_seconds, [2, 3, 4, 5])
    assert np.isnan(first.scores["some"][0]) and first.scores["right"].tolist() == [0, 1, 2, 3]
    assert first.of("c", first.accuracies) == pytest.approx(0.4) and np.isnan(first.of("e", first.accuracies))


def test_only_what_is_finished_for_all_models_counts():
    unfinished = [r for r in truth() if (r["seed"], r["model"]) != (1, "b") and (r["rate"], r["model"]) != (0.2, "c")]
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
