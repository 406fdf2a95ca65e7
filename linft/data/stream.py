"""Minibatches of images that are too many for memory: read and resized ahead of the step that needs them."""

import atexit
import gc
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from multiprocessing import parent_process, resource_tracker
from typing import Any, NamedTuple

import grain
import jax
import numpy as np
from absl import flags
from jaxtyping import Int, UInt8

from linft.core.errors import LinftError
from linft.core.order import Order
from linft.data.lazy import LazyImages

Prepared = tuple[UInt8[np.ndarray, "side side c"], tuple[int, int]]  # an image, and the height and width it fills


# Not by shared memory: a container's /dev/shm is small, a full one kills the worker without a word,
# and an array that is still in use at the end leaves its segment behind.
_BY_PIPE = grain.experimental.DatasetOptions(min_shm_size=sys.maxsize)


class Batch(NamedTuple):
    """The images of one step, or this host's share of them; of numpy or of JAX, perhaps of k steps at once [k b …]."""

    index: Any
    """Number of every image in the training part, [b]."""
    images: Any = None
    """uint8 [b side side c]; None where the device holds them."""
    sizes: Any = None
    """Height and width that each image fills, from the corner at the origin, [b 2]; None where they fill all."""
    labels: Any = None
    """[b]; None where the device holds them."""


def stream(
    images: LazyImages | UInt8[np.ndarray, "n h w c"],
    labels: Int[np.ndarray, "n"],
    order: Order,
    steps: range,
    prepare: Callable[[UInt8[np.ndarray, "_ _ _"]], Prepared],
    *,
    workers: int = 0,
    threads: int = 4,
    rows: slice = slice(None),
) -> Iterator[Batch]:
    """The batches of these steps, images prepared by threads here or, with `workers`, in as many processes.

    `order(step)` and `rows` alone say which images a batch holds: never the workers or threads. So a
    run goes on from step k with `steps=range(k, …)`, with as many workers as it likes, and each of
    several hosts takes its `rows` of every batch. Up to `threads` batches are held ready in every
    process. `images` and `prepare` must be picklable where there are workers.

    Raises:
      LinftError: an image that cannot be read, when its batch is reached, or a worker that died.

    Example:
      >>> from linft.data.load import load_task
      >>> task, order = load_task("digits"), Order(n=1347, batch_size=4, steps=3, seed=0)
      >>> batches = stream(task.x_train, task.y_train, order, range(1, 3), lambda image: (image, image.shape[:2]))
      >>> [batch.labels.tolist() for batch in batches] == task.y_train[order.batches()][1:].tolist()
      True
    """
    if not steps:
        return
    places = _Places(order, steps, rows)
    pipeline = (
        grain.MapDataset.source(places)
        .map(_Prepare(images, prepare))
        .batch(places.batch)
        .to_iter_dataset(grain.ReadOptions(num_threads=threads, prefetch_buffer_size=threads))
        .mp_prefetch(grain.MultiprocessingOptions(num_workers=min(workers, len(steps))), _begin_worker)
    )
    batches = iter(grain.experimental.WithOptionsIterDataset(pipeline, _BY_PIPE))
    atexit.register(batches.close)  # for a stream that is still open when the interpreter ends
    try:
        with _starting_workers() if workers else nullcontext():
            first = next(batches)
        for index, prepared, sizes in chain([first], batches):
            yield Batch(index, prepared, sizes, labels[index].astype(np.int32))
    except RuntimeError as error:
        if "Worker process was terminated" not in str(error):
            raise
        raise LinftError(
            f"a process that reads images died ({str(error).split('.')[0]}); memory may be full: "
            "use fewer workers or smaller batches"
        ) from None
    finally:
        batches.close()
        atexit.unregister(batches.close)


@dataclass(frozen=True, eq=False)
class _Places:
    """Number of the image at every place of a stream: row after row of step after step."""

    order: Order
    steps: range
    rows: slice

    @cached_property
    def batch(self) -> int:
        return len(self.order(self.steps[0])[self.rows])

    def __len__(self) -> int:
        return len(self.steps) * self.batch

    def __getitem__(self, index: int) -> int:
        step, row = divmod(index, self.batch)
        return int(self.order(self.steps[step])[self.rows][row])


@dataclass(frozen=True, eq=False)
class _Prepare:
    images: Any
    prepare: Callable

    def __call__(self, number: int) -> tuple[np.int32, np.ndarray, np.ndarray]:
        image, size = self.prepare(self.images[number])
        return np.int32(number), image, np.array(size, np.int32)


@contextmanager
def _starting_workers() -> Iterator[None]:
    """Hold back Ctrl-C and SIGTERM, and for good from the processes started meanwhile: their parent ends them."""
    flags.FLAGS.mark_as_parsed()  # grain asks for a flag of its own, which no command line of ours has
    gc.collect()  # an earlier stream's semaphores, which Python 3.13.0 cannot let go of while it makes new ones
    resource_tracker.ensure_running()  # whose start would let the signals through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin_worker(worker: int, workers: int) -> None:
    """Leave the accelerator to the parent, and do not outlive it."""
    jax.config.update("jax_platforms", "cpu")
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
    os._exit(1)
