"""What a zoo keeps of the source images: the mean features of every class."""

import numpy as np

from linft.core.base import ClassMeans, Model
from linft.core.task import Task


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
    features = np.asarray(model.features_of(task.x_train, batch), np.float64)
    sums = np.zeros((task.num_classes, features.shape[1]))
    np.add.at(sums, task.y_train, features)
    counts = np.bincount(task.y_train, minlength=task.num_classes)
    return ClassMeans((sums / counts[:, None]).astype(np.float32), counts.astype(np.int32))
