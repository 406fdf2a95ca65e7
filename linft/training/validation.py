"""An honest experiment: choices on validation images only, then final runs on all images, over several seeds."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import jax
import numpy as np
from scipy.special import softmax

from linft.core.base import Model
from linft.core.errors import LinftError
from linft.core.recipe import Recipe
from linft.core.task import Task
from linft.training.history import Tracking
from linft.training.metrics import Metrics, evaluate_probabilities
from linft.training.result import Scores, TenCrop, Tried
from linft.training.run_directory import Diverged, RunOptions, run_in, save_weights
from linft.training.ten_crop import ten_crop_probabilities

BEST = "best.safetensors"

MakeModel = Callable[[Task, int], Model]
"""(task, seed) -> the model with its new layers, as a run starts with it."""

TrackingOf = Callable[[Path, int], Tracking]
"""(directory, steps) -> what opens the files that a run's numbers go to."""


@dataclass(frozen=True)
class ValidationChoice:
    """What validation images chose."""

    rate: float
    share: float
    """Share of the recipe's steps after which validation accuracy was greatest."""
    accuracy: float
    """The greatest validation accuracy."""
    tried: dict[str, Tried]
    """By rate: the greatest accuracy and its step, or the reason why there is none."""


def choose(
    directory: str | Path,
    make: MakeModel,
    task: Task,
    recipe: Recipe,
    rates: Sequence[float],
    fraction: float,
    tracking: TrackingOf,
    config: Mapping[str, Any],
    conduct: RunOptions = RunOptions(),
) -> ValidationChoice:
    """Train with every learning rate on part of the training images, and take the best on the rest of them.

    Runs live in DIRECTORY/rate-…; each keeps the weights of its best step in best.safetensors. The first
    of equals is taken. Rates of groups keep their ratio to the learning rate.

    Raises:
      LinftError: every run diverged, or the task is too small to hold images out.
    """
    held = task.holdout(fraction)
    tried: dict[str, Tried] = {}
    best: ValidationChoice | None = None
    for rate in rates:
        path = Path(directory) / f"rate-{rate:g}"
        of_rate = recipe.replace(learning_rate=rate)
        steps = of_rate.num_steps(len(held.y_train))
        model = make(held, recipe.seed)
        try:
            done = run_in(
                path,
                model,
                held,
                of_rate,
                config={**config, "learning_rate": rate, "held_out": fraction},
                conduct=conduct,
                tracking=tracking(path, steps),
            )
        except Diverged as error:
            tried[f"{rate:g}"] = Tried(diverged=str(error))
            continue
        if done.best is not None and jax.process_index() == 0:
            save_weights(done.best.replace(source={"init": model.name, "data": f"{task.name} (part)"}), path / BEST)
        curve = done.result.trajectory
        accuracies = np.array(curve.test_accuracy, float)
        at = int(np.argmax(accuracies))
        accuracy, step = float(accuracies[at]), curve.steps[at]
        tried[f"{rate:g}"] = Tried(validation_accuracy=accuracy, step=step)
        if best is None or accuracy > best.accuracy:
            best = ValidationChoice(rate, step / max(steps, 1), accuracy, tried)
    if best is None:
        raise LinftError(f"every run diverged, with learning rates {', '.join(tried)}; choose among smaller ones")
    return best


def over_seeds(
    directory: str | Path,
    make: MakeModel,
    task: Task,
    recipe: Recipe,
    seeds: Sequence[int],
    tracking: TrackingOf,
    config: Mapping[str, Any],
    conduct: RunOptions = RunOptions(),
    until: int | None = None,
) -> tuple[dict[str, Metrics], list[Model]]:
    """Train on all training images with every seed: metrics of each, and the models.

    Runs live in DIRECTORY/seed-…. A seed draws the new layers, the order of the images and their
    augmentation.
    """
    finals, models = {}, []
    steps = recipe.num_steps(len(task.y_train)) if until is None else until
    for seed in seeds:
        path = Path(directory) / f"seed-{seed}"
        done = run_in(
            path,
            make(task, seed),
            task,
            recipe.replace(seed=seed),
            until=until,
            config={**config, "seed": seed, "until": until, "learning_rate": recipe.learning_rate},
            conduct=conduct,
            tracking=tracking(path, steps),
        )
        finals[str(seed)] = done.result.final
        models.append(done.model)
    return finals, models


def ensemble(models: Sequence[Model], task: Task) -> Metrics:
    """Metrics of the mean of the models' class probabilities."""
    each = [softmax(np.asarray(model.logits_of(task.x_test), float), axis=1) for model in models]
    return evaluate_probabilities(np.mean(each, 0), task.y_test)


def ten_crop(models: Sequence[Model], task: Task) -> TenCrop:
    """Metrics of the models, and of the mean of their probabilities, over ten crops of every test image.

    Plested and others 2021, section 3.3 and Table 6: four seeds and ten crops.
    """
    each = [np.asarray(ten_crop_probabilities(model, task.x_test), float) for model in models]
    mean, deviation = mean_and_deviation([evaluate_probabilities(p, task.y_test) for p in each])
    together = evaluate_probabilities(np.mean(each, 0), task.y_test)
    return TenCrop(mean=mean, standard_deviation=deviation, ensemble=together)


def mean_and_deviation(metrics: Sequence[Metrics]) -> tuple[Scores, Scores]:
    """Means over seeds, and standard deviations of a sample (n − 1); None of one seed."""
    values = {field.name: np.array([getattr(of, field.name) for of in metrics]) for field in fields(Scores)}
    mean = {name: float(v.mean()) for name, v in values.items()}
    deviation = {name: float(v.std(ddof=1)) if len(v) > 1 else None for name, v in values.items()}
    return Scores(**mean), Scores(**deviation)
