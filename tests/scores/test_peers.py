"""Scores against stored values of a public implementation, the Transfer Learning Library (stored/make_scores.py)."""

from pathlib import Path

import numpy as np
import pytest

from linft import scores


@pytest.fixture(scope="module")
def peer():
    with np.load(Path(__file__).parents[1] / "stored" / "scores.npz") as stored:
        return {name: stored[name] for name in stored.files}


def test_leep_and_nce(peer):
    p, y = peer["probabilities"], peer["labels"]
    np.testing.assert_allclose(scores.leep(p, y), peer["leep"], rtol=1e-8)
    np.testing.assert_allclose(scores.nce(p.argmax(1), y), peer["nce"], rtol=1e-8)


@pytest.mark.parametrize("which", ["", "_few"])
def test_hscore(peer, which):
    """Theirs divides the covariance of class means by n − 1, and the one that it is compared with by n."""
    x, y = (peer["images"][peer["few"]], peer["labels"][peer["few"]]) if which else (peer["narrow"], peer["labels"])
    expected = peer[f"hscore{which}"] * (len(y) - 1) / len(y)
    np.testing.assert_allclose(scores.hscore(x.astype(float), y), expected, rtol=1e-8)


@pytest.mark.parametrize("which", ["", "_few"])
def test_logme(peer, which):
    x, y = (peer["images"][peer["few"]], peer["labels"][peer["few"]]) if which else (peer["narrow"], peer["labels"])
    np.testing.assert_allclose(scores.logme(x.astype(float), y), peer[f"logme{which}"], rtol=1e-8)


def test_transrate(peer):
    """Theirs is not free of scale, and weighs classes alike: the same on classes of one size, scaled as ours."""
    x, y = peer["narrow"][peer["even"]], peer["labels"][peer["even"]]
    np.testing.assert_allclose(scores.transrate(x, y), peer["transrate"], rtol=1e-8)
