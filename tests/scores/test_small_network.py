"""The small network that is trained on the sample."""

import numpy as np
import pytest

import linft
from linft.scores import small_network as module
from linft.scores.small_network import small_network


@pytest.fixture
def short(monkeypatch):
    monkeypatch.setattr(module, "RECIPE", module.RECIPE.replace(epochs=2))


def test_its_accuracy_is_on_images_it_has_not_seen(short, monkeypatch):
    task = linft.load_task("digits").max_per_class(5)
    seen = []
    real = module.finetune
    monkeypatch.setattr(
        module, "finetune", lambda model, split, **rest: seen.append(split) or real(model, split, **rest)
    )
    small = small_network(task, seed=1)
    (split,) = seen
    assert len(split.y_train) == 40 and len(split.y_test) == 10
    whole = {image.tobytes() for image in split.x_train}
    assert not whole & {image.tobytes() for image in split.x_test}
    assert small.features.shape == (50, 64) and np.isfinite(small.features).all()
    assert small.accuracy * 10 == pytest.approx(round(small.accuracy * 10))


def test_too_few_images_to_hold_any_out(short):
    small = small_network(linft.load_task("digits").max_per_class(2))
    assert small.features.shape == (20, 64) and small.accuracy is None
