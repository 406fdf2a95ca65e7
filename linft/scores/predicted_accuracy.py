"""Fine-tuned accuracy, predicted from the tangent kernel by cross-validation on the training images alone."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Array, ArrayLike, Int, Integer
from sklearn.model_selection import StratifiedKFold

from linft.core.base import Kernel, Tangent
from linft.core.recipe import Recipe
from linft.predict.dual import dual
from linft.scores.arrays import Undefined, class_numbers

FOLDS = 5
RATES = (0.01, 0.005, 0.001)
RECIPE = Recipe(batch_size=32, epochs=30, schedule="step", drop_at=(15 / 30, 25 / 30))


def predicted_accuracy(
    tangent: Tangent,
    labels: Integer[ArrayLike, "n"],
    seed: int = 0,
    recipe: Recipe = RECIPE,
    rates: Sequence[float] = RATES,
    folds: int = FOLDS,
) -> float:
    """Share of images that the linearized network, fine-tuned on the other folds, gives their class.

    `predict.dual` replays the recipe's minibatches on sub-blocks of one kernel, fold by fold, at every
    rate at once; as in fine-tuning, the best rate counts. Recipe and rates are those of Deshpande and
    others 2021, section 4.2, as far as a kernel predicts them: batch norm frozen, no augmentation, no decay.

    Args:
      tangent: of the network with a fresh head on the n images; its test part is not looked at.
      labels: class of every image.
      seed: of the folds and of the order of the minibatches.
      recipe: of fine-tuning, without decay, its rate aside.
      rates: learning rates. A fold where one diverges counts as if no image were right.
      folds: at most; no more than the images of the rarest class that has two.

    Raises:
      Undefined: there is one class only, or no class has two images.

    Example:
      >>> import jax, linft
      >>> task = linft.load_task("digits").max_per_class(4)
      >>> model = linft.load_model("resnet14-mnist").with_head(10, jax.random.key(0))
      >>> tangent = linft.predict.tangent(model, task.subset(40, 1), groups=["head"])
      >>> predicted_accuracy(tangent, tangent.labels_train) > 0.3
      True
    """
    y = class_numbers(labels)
    counts = np.bincount(y)
    if counts.max() < 2:
        raise Undefined("no class has two images, so that none can be held out")
    judged = np.flatnonzero(counts[y] > 1)
    alone = np.flatnonzero(counts[y] == 1)  # always trained on, never judged
    splits = StratifiedKFold(int(min(folds, counts[counts > 1].min())), shuffle=True, random_state=seed)
    right = np.zeros(len(rates))
    for train, held in splits.split(judged, y[judged]):
        fold = part(tangent, np.concatenate([judged[train], alone]), judged[held])
        steps = recipe.num_steps(len(fold.labels_train))
        runs = dual(fold, record_every=max(1, steps)).many(
            [recipe.replace(learning_rate=rate, seed=seed) for rate in rates]
        )
        right += [0 if run.diverged_at is not None else round(run.test_accuracy[-1] * len(held)) for run in runs]
    return float(right.max() / len(judged))


def part(tangent: Tangent, train: Int[np.ndarray, "k"], test: Int[np.ndarray, "m"]) -> Tangent:
    """The tangent of some training images, with others of them as test images."""

    def among(rows: np.ndarray) -> Kernel:
        kernel = tangent.kernel_train
        blocks = {group: _pairs(block, rows, train) for group, block in kernel.blocks.items()}
        return Kernel(blocks, kernel.outputs, kernel.engine)

    return tangent.replace(
        logits_train=tangent.logits_train[train],
        logits_test=tangent.logits_train[test],
        labels_train=tangent.labels_train[train],
        labels_test=tangent.labels_train[test],
        kernel_train=among(train),
        kernel_test=among(test),
        weights_train={group: weights[train] for group, weights in tangent.weights_train.items()},
        weights_test={group: weights[test] for group, weights in tangent.weights_train.items()},
    )


def _pairs(block: Array, rows: Int[np.ndarray, "m"], columns: Int[np.ndarray, "k"]) -> Array:
    """Of a block [n m] or [n c m c], by images."""
    return block[rows][:, columns] if block.ndim == 2 else block[rows][:, :, columns]
