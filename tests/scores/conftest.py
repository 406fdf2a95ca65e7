"""Digits as features of themselves: the first scans of each class, of 64 pixels."""

import numpy as np
import pytest
from sklearn.datasets import load_digits


def scans(per_class: int) -> tuple[np.ndarray, np.ndarray]:
    """The first scans of each digit, in the order of the file."""
    data = load_digits()
    kept = np.sort(np.concatenate([np.flatnonzero(data.target == c)[:per_class] for c in range(10)]))
    return data.data[kept], data.target[kept]


@pytest.fixture(scope="session")
def few() -> tuple[np.ndarray, np.ndarray]:
    """Fewer images than features: [40, 64]."""
    return scans(4)


@pytest.fixture(scope="session")
def many() -> tuple[np.ndarray, np.ndarray]:
    """More images than features: [100, 64]."""
    return scans(10)


@pytest.fixture(params=["few", "many"])
def digits_as_features(request) -> tuple[np.ndarray, np.ndarray]:
    """Either."""
    return request.getfixturevalue(request.param)
