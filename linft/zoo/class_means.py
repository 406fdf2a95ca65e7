"""What a zoo keeps of the source images: the mean features of every class."""

import jax
import numpy as np

from linft.base import ClassMeans, Model
from linft.task import Task


def class_means(model: Model, task: Task, batch: int = 250) -> ClassMeans:
    """Mean penultimate features φ̄_c of each class of the task's training images, and the images' number n_c.

    Domain similarity compares them between a source and a target (Cui and others 2018, *Large scale
    fine-grained categorization and domain-specific transfer learning*).

    Example:
      >>> import jax, linft
      >>> model = linft.models.create("cifar_resnet8", 10, jax.random.key(0), width=4)
      >>> means, counts = class_means(model, linft.load_task("digits").subset(40, 10))
      >>> means.shape, int(counts.sum())
      ((10, 16), 40)
    """
    features = jax.jit(lambda x: model.features(model.params, x))
    sums: np.ndarray | float = 0.0
    for start in range(0, len(task.y_train), batch):
        part = slice(start, start + batch)
        members = np.eye(task.num_classes)[:, task.y_train[part]]  # [classes n], 1 where an image is of a class
        sums = sums + members @ np.asarray(features(model.preprocess(task.x_train[part])), np.float64)
    counts = np.bincount(task.y_train, minlength=task.num_classes)
    return ClassMeans((sums / counts[:, None]).astype(np.float32), counts.astype(np.int32))
