"""Where a run's batches come from: images held on the device, or streamed to it."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import jax
import numpy as np
from jaxtyping import UInt8

from linft.core import parallel
from linft.core.base import Model
from linft.core.draws import refuse_draws
from linft.core.order import Order
from linft.core.preprocessing import Preprocessing
from linft.core.task import Task
from linft.data.lazy import LazyImages
from linft.data.stream import Batch, Prepared, stream
from linft.training.step import Execution, steps_per_call


@dataclass(frozen=True)
class Feed:
    """A task's training images, for recipes of one kind of augmentation."""

    held: Batch | None
    """All of them, on the device; None where batches bring their own."""
    batches: Callable[[Order, int, Sequence[int]], Iterator[Batch]]
    """(order, first step, stops) -> batches [k b …] of k steps each, which never pass a stop; to the last stop."""


def feed(model: Model, task: Task, canvas: bool, execution: Execution, workers: int) -> Feed:
    """The task's training images, on the device where the task holds them in memory, else streamed.

    Args:
      model: whose preprocessing is applied.
      task: with images in memory or `LazyImages`.
      canvas: whether augmentation cuts from whole images, or works on images of the input size.
      execution: on which devices.
      workers: processes that read streamed images; 0 reads by threads.
    """
    refuse_draws(task.draws)
    if isinstance(task.x_train, LazyImages):
        return _streamed(model, task, canvas, execution, workers)
    images, sizes = model.preprocessing.canvas(task.x_train) if canvas else _resized(model, task)
    held = Batch(np.arange(len(images), dtype=np.int32), images, sizes, task.y_train.astype(np.int32))
    return Feed(parallel.replicate(execution.mesh, held), partial(_indices, execution))


def _resized(model: Model, task: Task) -> tuple[np.ndarray, None]:
    return model.preprocessing.resize(task.x_train), None


def _indices(execution: Execution, order: Order, first: int, stops: Sequence[int]) -> Iterator[Batch]:
    rows = parallel.own_rows(order.batch_size)
    for stop in stops:
        while first < stop:
            last = min(first + steps_per_call(), stop)
            index = np.stack([order(step)[rows] for step in range(first, last)]).astype(np.int32)
            yield Batch(parallel.divide_rows(execution.mesh, index))
            first = last


def _streamed(model: Model, task: Task, canvas: bool, execution: Execution, workers: int) -> Feed:
    prepare = partial(_to_canvas if canvas else _to_input_size, model.preprocessing)

    def batches(order: Order, first: int, stops: Sequence[int]) -> Iterator[Batch]:
        rows = parallel.own_rows(order.batch_size)
        steps = range(first, max(stops, default=first))
        for batch in stream(task.x_train, task.y_train, order, steps, prepare, workers=workers, rows=rows):
            yield parallel.divide_rows(execution.mesh, jax.tree.map(lambda x: np.asarray(x)[None], batch))

    return Feed(None, batches)


def _to_canvas(preprocessing: Preprocessing, image: UInt8[np.ndarray, "_ _ _"]) -> Prepared:
    return preprocessing.canvas_one(image, preprocessing.canvas_side)


def _to_input_size(preprocessing: Preprocessing, image: UInt8[np.ndarray, "_ _ _"]) -> Prepared:
    return preprocessing.resize(image[None])[0], preprocessing.input_size[:2]
