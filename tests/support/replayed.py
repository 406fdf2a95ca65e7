"""Recipes of all kinds that can be predicted exactly, and what of two trajectories must be the same."""

import numpy as np

from linft.core import trees
from linft.core.base import OneByOne, Trajectory
from linft.core.recipe import Recipe
from linft.predict.moving import Moving

CURVES = ("train_loss", "test_loss", "train_accuracy", "test_accuracy")
CE = Recipe(learning_rate=0.05, batch_size=4, steps=50)  # 4 does not divide the 10 images
SE = CE.replace(loss="squared_error", learning_rate=0.02)
DECAY = {"weight_decay": 0.1}
RATES = {"rate_multipliers": (("conv", 0.3), ("head", 3.0))}

RECIPES = {
    "no momentum, full batch": SE.replace(momentum=0.0, nesterov=False, batch_size=None),
    "heavy ball, full batch": CE.replace(nesterov=False, batch_size=None),
    "heavy ball, step": SE.replace(nesterov=False, schedule="step"),
    "Nesterov, cosine": CE.replace(schedule="cosine"),
    "Nesterov, warm-up": SE.replace(warmup_steps=20, seed=3),
    "step after warm-up": CE.replace(schedule="step", warmup_steps=30, momentum=0.5),
    "in order": CE.replace(shuffle=False),
    "decay to zero": CE.replace(**DECAY),
    "decay to the pretrained": SE.replace(l2sp=0.1, nesterov=False),
    "L2-SP below a new head": CE.replace(l2sp=0.2, l2sp_groups=("conv", "norm"), **DECAY),
    "decoupled, step": CE.replace(convention="decoupled", schedule="step"),
    "decoupled, decay to zero": SE.replace(convention="decoupled", schedule="step", **DECAY),
    "decoupled, L2-SP, heavy ball": SE.replace(convention="decoupled", nesterov=False, schedule="step", l2sp=0.1),
    "decoupled, group rates and decay": CE.replace(convention="decoupled", **RATES, **DECAY),
    "decay of kernels to zero": CE.replace(**DECAY, decay_vectors=False),
    "decay of kernels to the pretrained": CE.replace(l2sp=0.1, decay_vectors=False),
    "decay of some groups": CE.replace(**DECAY, decay_groups=("conv", "h*")),
    "group rates": CE.replace(**RATES),
    "group rates and decay": SE.replace(**RATES, **DECAY, nesterov=False),
    "frozen groups": CE.replace(frozen_groups=("conv", "norm")),
    "clipped": CE.replace(**RATES, frozen_groups=("norm",), clip_norm=0.1),
    "averaged": SE.replace(ema=0.95),
    "smoothed labels": SE.replace(label_smoothing=0.3),
    "all at once": CE.replace(
        **RATES, **DECAY, decay_vectors=False, frozen_groups=("norm",), schedule="cosine", warmup_steps=5,
        label_smoothing=0.2, clip_norm=0.3, ema=0.9,
    ),
}  # fmt: skip

ADAM = {
    "Adam, decay to zero": SE.replace(optimizer="adam", learning_rate=0.01, **DECAY),
    "AdamW, all at once": RECIPES["all at once"].replace(
        optimizer="adam", convention="decoupled", learning_rate=0.02, momentum=0.8, clip_norm=0.2
    ),
}
"""Those of another rule than SGD's."""

PLAIN = SE.replace(momentum=0.0, nesterov=False, batch_size=None, steps=60)
HEAVY, NESTEROV = PLAIN.replace(momentum=0.9), PLAIN.replace(momentum=0.9, nesterov=True)
SLIGHT = {"weight_decay": 0.05}

FULL_BATCH = {
    "no momentum": PLAIN,
    "heavy ball": HEAVY,
    "Nesterov": NESTEROV,
    "no momentum, decay to zero": PLAIN.replace(**SLIGHT),
    "heavy ball, decay to zero": HEAVY.replace(**SLIGHT),
    "Nesterov, decay to zero": NESTEROV.replace(**SLIGHT),
    "heavy ball, decay to the pretrained": HEAVY.replace(l2sp=0.05),
    "Nesterov, decay to the pretrained": NESTEROV.replace(l2sp=0.05),
    "decoupled": NESTEROV.replace(convention="decoupled"),
    "group rates, constant": NESTEROV.replace(rate_multipliers=(("conv", 0.3), ("head", 2.0))),
    "one rate for all, and decay": HEAVY.replace(rate_multipliers=(("*", 0.5),), **SLIGHT),
    "smoothed labels": NESTEROV.replace(label_smoothing=0.3),
    "frozen groups, full batch": NESTEROV.replace(frozen_groups=("conv", "norm")),
    "frozen groups, and decay": NESTEROV.replace(frozen_groups=("conv", "norm"), **SLIGHT),
    "everything frozen": NESTEROV.replace(frozen_groups=("*",)),
    "everything frozen, and decay": NESTEROV.replace(frozen_groups=("*",), **SLIGHT),
    "a batch larger than the task": NESTEROV.replace(batch_size=50),
    "no steps": NESTEROV.replace(steps=0),
    "10000 steps": NESTEROV.replace(learning_rate=1e-4, steps=10000),
    "10000 steps, decay to zero": HEAVY.replace(learning_rate=1e-4, steps=10000, weight_decay=1e-3),
    "diverging": PLAIN.replace(learning_rate=0.5),
}
"""Of those with a closed form."""


def values(trajectory: Trajectory) -> dict[str, np.ndarray]:
    """Curves, and distances and norms by layer group; those of kernels and vectors add up as squares."""
    squares: dict[str, np.ndarray] = {}
    for kind in ("distance", "norm"):
        for name, length in getattr(trajectory, kind).items():
            group = f"{kind} {trees.layer_group(name)}"
            squares[group] = squares.get(group, 0) + length**2
    return {name: getattr(trajectory, name) for name in CURVES} | {g: np.sqrt(s) for g, s in squares.items()}


def assert_same(got: dict, expected: dict, tolerance: float = 1e-9) -> None:
    assert set(got) == set(expected)
    for name in expected:
        np.testing.assert_allclose(got[name], expected[name], rtol=tolerance, atol=tolerance, err_msg=name)


def with_all_anchors(run: Moving) -> OneByOne:
    """A prediction whose kernel moves, with its last anchor, whether it is surer with that or not."""
    return OneByOne(lambda recipe: [*run.stages(recipe)][-1].trajectory)
