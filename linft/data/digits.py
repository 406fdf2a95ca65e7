"""`digits`: scikit-learn's 1797 scanned digits, 8×8 grey, 10 classes."""

import numpy as np
from sklearn.datasets import load_digits

from linft.core.errors import LinftError
from linft.core.task import Task


def load(rest: str) -> Task:
    """All 1797 images; a quarter of each class, drawn with seed 0, is the test part."""
    if rest:
        raise LinftError(f"the task digits takes nothing after its name, not {rest!r}")
    pixels, labels = load_digits(return_X_y=True)
    images = np.round(np.reshape(pixels, (-1, 8, 8)) * (255 / 16)).astype(np.uint8)
    return Task.from_arrays(images, labels, name="digits")
