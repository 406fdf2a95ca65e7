"""Near a path that turns, weights are on the segment that they are nearest to."""

import jax
import jax.numpy as jnp
import judges
import numpy as np
import pytest

from linft.predict.explicit import Jacobian
from linft.predict.explicit_path import ExplicitPath, about_weights
from linft.predict.path import known

PATH = [np.array([0.0, 0.0]), np.array([1.0, 0.0]), np.array([0.5, 1.0])]


def logits(w):
    return jnp.stack([jnp.sin(w[0] + 2 * w[1]), w[0] * w[1] ** 2])[None]


@pytest.fixture
def span(x64):
    del x64
    jacobians = [jax.jacobian(logits)(jnp.asarray(a)) for a in PATH]
    ends = [(j @ (b - a), k @ (b - a)) for a, b, j, k in zip(PATH, PATH[1:], jacobians, jacobians[1:], strict=False)]
    outputs = known([logits(jnp.asarray(a)) for a in PATH], ends)
    at = tuple(Jacobian(j, j, {"w": jnp.asarray(a)}) for j, a in zip(jacobians, PATH, strict=True))
    return about_weights((("w", "stage"),), ExplicitPath(at, outputs, outputs, None))


@pytest.mark.parametrize("w", [(0.6, 0.75), (0.3, 0.2), (0.9, 0.05), (0.4, 1.2), (-0.1, 0.0), (1.0, 0.0)], ids=str)
def test_of_two_segments_the_nearer_one(span, w):
    w = np.array(w)
    whole = judges.Network(lambda w: np.asarray(logits(w)), lambda w: np.asarray(jax.jacobian(logits)(w)))
    judge = judges.along(whole, PATH, judges.nearest)
    batch = span.of_batch({"w": jnp.asarray(w)}, jnp.array([0]))
    start = np.asarray(logits(PATH[0]))
    np.testing.assert_allclose(np.asarray(batch.outputs) + start, judge.logits(w), rtol=1e-12)
    residual = jnp.array([[0.3, -0.7]])
    expected = np.einsum("nc,ncp->p", residual, judge.jacobian(w))
    np.testing.assert_allclose(batch.gradient(residual)["w"], expected, rtol=1e-12)


def test_where_the_path_turns_the_first_segment_need_not_be_passed():
    turned = np.array([0.6, 0.75])
    assert judges.in_turn(turned, PATH) == 0
    assert judges.nearest(turned, PATH) == 1
