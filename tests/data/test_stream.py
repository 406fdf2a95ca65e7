"""A stream holds what indexing in memory holds: the same images, in the recipe's order, however they are read."""

import multiprocessing
import os
import signal
import subprocess
import sys
import zipfile
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from linft import Recipe
from linft.core.errors import LinftError
from linft.core.order import Order
from linft.core.preprocessing import Preprocessing
from linft.data import image_folder, lazy
from linft.data.lazy import LazyImages
from linft.data.load import load_task
from linft.data.stream import stream

PREPROCESSING = Preprocessing((28, 28, 3))
SIDE = PREPROCESSING.canvas_side
PREPARE = partial(PREPROCESSING.canvas_one, side=SIDE)
RECIPE = Recipe(batch_size=6, epochs=2, seed=3)  # two short last batches


@pytest.fixture(scope="module")
def photos(shared, tmp_path_factory):
    """64 training photographs of many sizes, left in their files."""
    root = tmp_path_factory.mktemp("photos")
    with zipfile.ZipFile(shared / "data" / "hymenoptera_photos.zip") as file:
        file.extractall(root)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lazy, "IN_MEMORY", 10)
        task = load_task(f"folder:{root / 'hymenoptera'}")
    assert isinstance(task.x_train, LazyImages) and len(task.x_train) == 64
    return task


@pytest.fixture(scope="module")
def held(photos):
    """The same on canvases in memory: squares, sizes and labels."""
    squares, sizes = PREPROCESSING.canvas(list(photos.x_train), SIDE)
    assert len({tuple(size) for size in sizes.tolist()}) > 5
    return squares, sizes, photos.y_train


def run(task, steps=None, **options):
    steps = range(RECIPE.num_steps(len(task.y_train))) if steps is None else steps
    return list(stream(task.x_train, task.y_train, RECIPE.order(len(task.y_train)), steps, PREPARE, **options))


def same(batches, index, held):
    assert [len(batch.index) for batch in batches] == [index.shape[1]] * len(index)
    np.testing.assert_array_equal([batch.index for batch in batches], index)
    for field, expected in zip(("images", "sizes", "labels"), held, strict=True):
        np.testing.assert_array_equal([getattr(batch, field) for batch in batches], expected[index])


@pytest.mark.parametrize(("workers", "threads"), [(0, 0), (0, 1), (0, 5), (2, 1)])
def test_a_stream_is_indexing_in_memory(photos, held, workers, threads):
    same(run(photos, workers=workers, threads=threads), RECIPE.batches(64), held)
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("step", [1, 10, 13])  # an epoch has 10 steps
def test_a_stream_from_a_later_step_is_the_rest_of_the_whole(photos, held, step):
    same(run(photos, range(step, 20)), RECIPE.batches(64)[step:], held)


def test_a_stream_of_no_steps_is_empty(photos):
    assert run(photos, range(20, 20)) == []


def test_hosts_share_out_the_rows_of_every_batch(photos, held):
    index = RECIPE.batches(64)[:4]
    for rows in (slice(0, 2), slice(2, 6)):
        same(run(photos, range(4), rows=rows), index[:, rows], held)


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_an_unreadable_image_is_named_when_its_batch_is_reached(photos, tmp_path, workers):
    files = photos.x_train.read
    cut = tmp_path / "cut.jpg"
    cut.write_bytes(Path(files.folder, os.fsdecode(files.names[21])).read_bytes()[:900])
    names = np.array([str(cut).encode() if i == 21 else name for i, name in enumerate(files.names)])
    task = photos.replace(x_train=LazyImages(image_folder.Files(files.folder, names), np.arange(64)))
    at = [21 in row for row in RECIPE.batches(64)].index(True)
    assert at > 0
    batches = stream(task.x_train, task.y_train, RECIPE.order(64), range(20), PREPARE, workers=workers)
    for _ in range(at):
        next(batches)
    with pytest.raises(LinftError, match=r"cut.jpg is not a readable image .*; repair or remove it") as error:
        next(batches)
    assert len(str(error.value).splitlines()) == 1
    assert not multiprocessing.active_children()


def test_a_worker_that_dies_is_reported():
    def prepare(image):
        if image[0, 0, 0] == 8:
            os.kill(os.getpid(), signal.SIGKILL)
        return image, (1, 1)

    images = np.arange(9, dtype=np.uint8).reshape(9, 1, 1, 1)
    batches = stream(images, np.arange(9), Order(9, batch_size=1, steps=9, seed=None), range(9), prepare, workers=1)
    with pytest.raises(LinftError, match=r"a process that reads images died \(.* code -9\).*: use fewer workers"):
        list(batches)


ENDLESS = """
from functools import partial
import numpy as np
from linft.core.preprocessing import Preprocessing
from linft.data.stream import stream

def order(step):
    return np.arange(8)

if __name__ == "__main__":
    images, prepare = np.zeros((8, 8, 8, 3), np.uint8), Preprocessing((8, 8, 3)).canvas_one
    for batch in stream(images, np.arange(8), order, range(10**9), partial(prepare, side=9), workers=1):
        print("reading", flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("ending", "group"), [(signal.SIGINT, True), (signal.SIGKILL, False)])
def test_workers_end_with_their_parent(tmp_path, ending, group):
    """Ctrl-C in a terminal goes to the workers too; a kill for want of memory to the parent alone."""
    (tmp_path / "endless.py").write_text(ENDLESS)
    command = [sys.executable, "-W", "error", tmp_path / "endless.py"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True) as process:
        assert process.stdout and process.stdout.readline() == b"reading\n"
        (os.killpg if group else os.kill)(process.pid, ending)
        # Until every holder of the pipes has closed them, workers included.
        errors = process.communicate(timeout=60)[1].decode()
    assert process.returncode == -ending
    assert errors.count("Traceback") == group and "Exception ignored" not in errors, errors
