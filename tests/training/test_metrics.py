"""Metrics against hand counts, the definitions and a classifier of real digits."""

import json
from dataclasses import asdict

import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score

import linft
from linft.core import losses
from linft.core.errors import LinftError
from linft.runtime import schema
from linft.training.metrics import Metrics, evaluate, evaluate_probabilities

P = np.array([[0.7, 0.2, 0.1], [0.4, 0.5, 0.1], [0.1, 0.9, 0.0], [0.3, 0.3, 0.4]])
Y = np.array([0, 0, 1, 1])


@pytest.fixture(scope="module")
def outputs():
    """Log-odds of unseen digits by a classifier of few."""
    task = linft.load_task("digits").few_shot(3)
    flat = [images.reshape(len(images), -1) / 255 for images in (task.x_train, task.x_test)]
    return LogisticRegression().fit(flat[0], task.y_train).decision_function(flat[1]) * 3, task.y_test


def test_by_hand():
    metrics = evaluate_probabilities(P, Y)
    assert metrics.accuracy == 0.5
    assert metrics.confusion_matrix == [[1, 1, 0], [0, 1, 1], [0, 0, 0]]
    assert metrics.per_class_accuracy == [0.5, 0.5, None]  # no image of the last class
    assert metrics.balanced_accuracy == metrics.mean_per_class_accuracy == 0.5
    assert metrics.loss == pytest.approx(-np.log([0.7, 0.4, 0.9, 0.3]).mean())
    # Confidences 0.7, 0.5, 0.9, 0.4 in four bins; right, wrong, right, wrong.
    assert metrics.calibration_error == pytest.approx((0.3 + 0.5 + 0.1 + 0.4) / 4)
    assert metrics.top5_accuracy is None


def calibration_error(probabilities, labels):
    """Guo and others 2017, bin by bin."""
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    total = 0.0
    for b in range(15):
        inside = (confidence > b / 15) & (confidence <= (b + 1) / 15)
        if inside.any():
            total += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    return total


def test_definitions_on_digits(outputs):
    logits, labels = outputs
    metrics = evaluate(logits, labels)
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert metrics.calibration_error == pytest.approx(calibration_error(probabilities, labels), abs=1e-12)
    assert metrics.balanced_accuracy == pytest.approx(balanced_accuracy_score(labels, logits.argmax(axis=1)))
    ranks = (logits > logits[np.arange(len(labels)), labels][:, None]).sum(axis=1)
    assert metrics.top5_accuracy == pytest.approx((ranks < 5).mean())
    assert metrics.accuracy == pytest.approx((ranks < 1).mean())
    assert metrics.loss == pytest.approx(-np.log(probabilities[np.arange(len(labels)), labels]).mean(), rel=1e-5)
    assert np.sum(metrics.confusion_matrix) == len(labels)
    assert 0.6 < metrics.accuracy < metrics.top5_accuracy < 1  # a classifier with something to tell
    assert schema.typed(json.loads(json.dumps(schema.content(metrics))), Metrics, "") == metrics


def test_logits_and_their_probabilities_agree(outputs):
    logits, labels = outputs
    of_logits, of_softmax = map(asdict, (evaluate(logits, labels), evaluate_probabilities(softmax(logits), labels)))
    assert of_logits.pop("loss") == pytest.approx(of_softmax.pop("loss"), rel=1e-5)
    for name, value in of_softmax.items():
        np.testing.assert_allclose(of_logits[name], value, atol=1e-6, err_msg=name)


def softmax(logits):
    return np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_device_arrays_of_lower_precision(outputs, dtype):
    logits, labels = outputs
    probabilities = jnp.asarray(softmax(logits), dtype)
    metrics = evaluate_probabilities(probabilities, jnp.asarray(labels))
    assert metrics.loss == pytest.approx(evaluate(logits, labels).loss, rel=0.02)


def test_classes_that_are_absent_or_only_predicted_warn_of_nothing():
    logits = np.eye(8)[[7, 7, 0]] * 5.0
    metrics = evaluate(logits, np.array([1, 7, 1]))
    assert metrics.per_class_accuracy == [None, 0.0, None, None, None, None, None, 1.0]
    assert metrics.balanced_accuracy == 0.5


def test_certain_and_right_is_perfect():
    metrics = evaluate_probabilities(np.eye(3), np.arange(3))
    assert (metrics.accuracy, metrics.calibration_error) == (1.0, 0.0)
    assert metrics.loss == pytest.approx(0, abs=1e-12)


def test_certain_and_wrong_has_a_finite_loss():
    """The probability of the label underflows, its logit does not."""
    metrics = evaluate(np.array([[0.0, 2000.0], [0.0, 1.0]]), np.array([0, 1]))
    assert metrics.loss == pytest.approx((2000 + np.log1p(np.exp(-1))) / 2)
    assert metrics.calibration_error == pytest.approx((1 + (1 - 1 / (1 + np.exp(-1)))) / 2)


@pytest.mark.parametrize("loss", ["cross_entropy", "squared_error"])
def test_loss_is_that_of_training(outputs, loss):
    logits, labels = outputs
    trained = losses.mean_loss(loss, jnp.asarray(logits), jnp.asarray(labels))
    assert evaluate(logits, labels, loss).loss == pytest.approx(float(trained), rel=1e-5)


BAD = {
    "no images": (P[:0], Y[:0], "nothing to evaluate: 0 images, 3 classes"),
    "a label too many": (P, Y + 2, "a label is 3, but labels run from 0 to 2, one a class"),
    "a negative label": (P, Y - 1, "a label is -1, but labels run from 0 to 2"),
    "logits": (np.log(P + 1), Y, "must be positive and sum to one; give logits to `evaluate`"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line(case):
    probabilities, labels, message = BAD[case]
    with pytest.raises(LinftError, match=message) as caught:
        evaluate_probabilities(probabilities, labels)
    assert "\n" not in str(caught.value)


def test_diverged_logits_are_refused():
    with pytest.raises(LinftError, match="the logits of 1 of 4 images are not finite; lower the learning rate"):
        evaluate(np.where(P == 0.9, np.nan, P), Y)
