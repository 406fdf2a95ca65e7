"""The digits of scikit-learn as files of images, and what a task that leaves its images in files is held to."""

import io
import pickle

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

from linft.data.lazy import LazyImages

SCANS = np.round(load_digits().images * (255 / 16)).astype(np.uint8)
TARGETS = load_digits().target


def write(path, image=SCANS[0], **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path, **options)


def png(scan):
    """A file's bytes: TFDS would need TensorFlow to encode an array."""
    data = io.BytesIO()
    Image.fromarray(scan).save(data, "png")
    data.seek(0)
    return data


def assert_the_same_from_files(many, held):
    """Images read one by one, here or where they are pickled to, are those that were held in memory."""
    assert not isinstance(held.x_train, LazyImages)
    for part in ("train", "test"):
        images, same = getattr(many, f"x_{part}"), getattr(held, f"x_{part}")
        assert isinstance(images, LazyImages) and len(images) == len(same) > 1
        for image, other, copy in zip(images, same, pickle.loads(pickle.dumps(images)), strict=True):
            np.testing.assert_array_equal(image, other)
            np.testing.assert_array_equal(copy, other)
        np.testing.assert_array_equal(getattr(many, f"y_{part}"), getattr(held, f"y_{part}"))
    assert (many.name, many.class_names) == (held.name, held.class_names)
