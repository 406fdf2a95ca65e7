"""The closed form is the replay, at any step at once, where there is a closed form."""

import numpy as np
import pytest

from linft import predict
from linft.core.errors import LinftError
from linft.core.recipe import Recipe

N = 10
PLAIN = Recipe(
    learning_rate=0.02, loss="squared_error", momentum=0.0, nesterov=False, batch_size=None, steps=60
)  # fmt: skip
HEAVY, NESTEROV = PLAIN.replace(momentum=0.9), PLAIN.replace(momentum=0.9, nesterov=True)
DECAY = {"weight_decay": 0.05}
RATES = {"rate_multipliers": (("conv", 0.3), ("head", 2.0))}

RECIPES = {
    "no momentum": PLAIN,
    "heavy ball": HEAVY,
    "Nesterov": NESTEROV,
    "no momentum, decay to zero": PLAIN.replace(**DECAY),
    "heavy ball, decay to zero": HEAVY.replace(**DECAY),
    "Nesterov, decay to zero": NESTEROV.replace(**DECAY),
    "heavy ball, decay to the pretrained": HEAVY.replace(l2sp=0.05),
    "Nesterov, decay to the pretrained": NESTEROV.replace(l2sp=0.05),
    "decoupled": NESTEROV.replace(convention="decoupled"),
    "group rates": NESTEROV.replace(**RATES),
    "one rate for all, and decay": HEAVY.replace(rate_multipliers=(("*", 0.5),), **DECAY),
    "frozen groups": NESTEROV.replace(frozen_groups=("conv", "norm")),
    "frozen groups, and decay": NESTEROV.replace(frozen_groups=("conv", "norm"), **DECAY),
    "everything frozen": NESTEROV.replace(frozen_groups=("*",)),
    "everything frozen, and decay": NESTEROV.replace(frozen_groups=("*",), **DECAY),
    "a batch larger than the task": NESTEROV.replace(batch_size=50),
    "no steps": NESTEROV.replace(steps=0),
    "10000 steps": NESTEROV.replace(learning_rate=1e-4, steps=10000),
    "10000 steps, decay to zero": HEAVY.replace(learning_rate=1e-4, steps=10000, weight_decay=1e-3),
    "diverging": PLAIN.replace(learning_rate=0.5),
}


def assert_as_dual(tangent, recipe):
    got, expected = predict.spectral(tangent)(recipe), predict.dual(tangent)(recipe)
    np.testing.assert_array_equal(got.steps, expected.steps)
    assert got.diverged_at == expected.diverged_at
    for name in ("train_loss", "test_loss", "train_accuracy", "test_accuracy"):
        np.testing.assert_allclose(getattr(got, name), getattr(expected, name), rtol=1e-9, err_msg=name)
    for kind in ("distance", "norm"):
        for group, length in getattr(expected, kind).items():
            np.testing.assert_allclose(getattr(got, kind)[group], length, rtol=1e-6, atol=1e-7, err_msg=group)
    return got


@pytest.mark.parametrize("name", RECIPES)
def test_spectral_is_dual(tangent, name):
    got = assert_as_dual(tangent, RECIPES[name])
    assert (got.diverged_at is not None) == (name == "diverging")


@pytest.mark.parametrize("recipe", [HEAVY, NESTEROV])
def test_spectral_is_dual_at_critical_damping(tangent, recipe):
    """There the companion matrix of the largest eigenvalue has one root twice, and no basis of eigenvectors."""
    matrix, m = np.asarray(tangent.kernel_train.total()).reshape(3 * N, 3 * N), recipe.momentum
    h = ((1 - m) / (1 + m)) ** 2 if recipe.nesterov else (1 - np.sqrt(m)) ** 2
    trace, determinant = ((1 + m) * (1 - h), m * (1 - h)) if recipe.nesterov else (1 + m - h, m)
    np.testing.assert_allclose(trace**2, 4 * determinant, rtol=1e-14)
    rate = h * N / np.linalg.eigvalsh(matrix)[-1]
    got = assert_as_dual(tangent, recipe.replace(learning_rate=float(rate)))
    assert got.train_loss[-1] < 0.9 * got.train_loss[0]


def test_one_decomposition_serves_every_rate(monkeypatch, tangent):
    decompositions = []
    eigh = np.linalg.eigh
    monkeypatch.setattr(np.linalg, "eigh", lambda matrix: decompositions.append(1) or eigh(matrix))
    runs = predict.spectral(tangent).many([NESTEROV, HEAVY, PLAIN.replace(learning_rate=0.01)])
    assert len(decompositions) == 1
    assert len({run.train_loss[-1] for run in runs}) == 3


REFUSED = {
    "the loss is not squared error": {"loss": "cross_entropy"},
    "the batch is not all 10 images": {"batch_size": 9},
    "the learning rate is not constant": {"schedule": "cosine"},
    "the learning rate is not constant ": {"warmup_steps": 3},
    "Adam is not linear in the gradient": {"optimizer": "adam"},
    "augmented images are not the images of the kernel": {"augmentation": "flip"},
}


def test_refuses_with_the_reason(tangent):
    run = predict.spectral(tangent)
    assert predict.why_not_spectral(NESTEROV, N) is None
    for reason, settings in REFUSED.items():
        recipe = NESTEROV.replace(**settings)
        assert predict.why_not_spectral(recipe, N) == reason.strip()
        with pytest.raises(LinftError, match=f"no closed form for this recipe: {reason.strip()}; use predict.dual"):
            run(recipe)
    for settings in (RATES, {"decay_groups": ("head",)}):
        with pytest.raises(LinftError, match=r"groups differ in rate or decay while some decay; use predict.dual"):
            run(NESTEROV.replace(**DECAY, **settings))
