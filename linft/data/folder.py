"""`folder:PATH`: a folder of images with a subfolder for each class, with or without a test part."""

import os
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Shaped

from linft.core.errors import LinftError
from linft.core.task import Task
from linft.data import image_folder
from linft.data.image_folder import Listing
from linft.data.lazy import Encoded, LazyImages, held


def load(path: str) -> Task:
    """Read the images that `image_folder.find` finds below PATH, as RGB images of their own sizes.

    Without a test part the source rule of `Task.from_arrays` applies. Images are held in memory if all
    of them fit in `lazy.IN_MEMORY` bytes; else they stay in their files as `LazyImages`.

    Raises:
      LinftError: a missing folder, one that `image_folder.find` refuses, or an image that `decode`
        refuses (when that image is reached, where they stay in their files).

    Example:
      >>> import tempfile
      >>> from PIL import Image
      >>> with tempfile.TemporaryDirectory() as root:
      ...     for name, grey in [("day", 255), ("night", 0)]:
      ...         (Path(root) / name).mkdir()
      ...         for i in range(4):
      ...             Image.new("L", (8, 6), grey).save(Path(root) / name / f"{i}.png")
      ...     task = load(root)
      >>> task.class_names, task.x_train.shape, task.y_test.tolist()
      (('day', 'night'), (6, 6, 8, 3), [0, 1])
    """
    root = Path(path)
    if not path or not root.is_dir():
        raise LinftError(f"no folder {path!r}; give the path of a folder of images after folder:")
    return listed(root, image_folder.find(root), root.resolve().name)


def listed(root: Path, listing: Listing, name: str) -> Task:
    """The task of images on disk: of the part `train` and, if there is one, of `test`."""
    parts = [listing.parts[part] for part in ("train", "test") if part in listing.parts]
    files = [Files(str(root), np.array([os.fsencode(path) for path, _ in part])) for part in parts]
    images = held(*(LazyImages(of_part, np.arange(len(of_part.names))) for of_part in files))
    labels = [np.array([label for _, label in part]) for part in parts]
    both = [array for pair in zip(images, labels, strict=True) for array in pair]
    return Task.from_arrays(*both, name=name, class_names=listing.classes)


@dataclass(frozen=True, eq=False)
class Files(Encoded):
    """Image files below a folder."""

    folder: str
    names: Shaped[np.ndarray, "n"] = field(repr=False)
    """Paths in the file system's encoding, as one array: a million of them pickle in an instant."""

    def encoded(self, number: int) -> bytes:
        try:
            return Path(self.name(number)).read_bytes()
        except OSError as error:
            raise LinftError(
                f"{self.name(number)} is not a readable image ({error.strerror}); repair or remove it"
            ) from None

    def name(self, number: int) -> str:
        return os.path.join(self.folder, os.fsdecode(self.names[number]))
