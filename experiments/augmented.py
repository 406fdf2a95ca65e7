"""Augmentation and mixup: predicted from a few draws of every image, and as if there were none.

    python experiments/augmented.py --scale laptop --data ../shared/data

Three real tasks × two heads (fresh, linear probe) × two recipes (crops and flips; mixup 0.2): 12 real runs of 16 epochs
on 48 images, frozen batch norm, Nesterov 0.9, cross-entropy. Beside each the linear prediction (under a probe head by
the network's kernel, under a fresh one by the features', head exact, few directions) and the one of the kernel that
moves, from the images as they are and from K draws of each (`predict.augmented`); and the linearized network trained in
weights on new draws at every step, which is what more and more draws tend to. All losses are those of the training
images as they are. For comparison the distance of real runs of three other seeds, and of the real run without
augmentation. Rows are written as they finish, those of kernels that move last. Writes rows.jsonl and table.md into
results/augmented/SCALE.

Expected (results/augmented/laptop/table.md): from a fresh head the features' kernel errs 6.6 % in the median without
draws and 3.2 % with 4 (crops and flips), 6.4 and 2.0 % (mixup); real runs of other seeds are 1.4 and 2.2 % apart. From
a probe head the network's kernel at the start errs about 20 % with draws, as the linearized network does, no less than
without (21 and 13 %). Of the kernel that moves two rows are there so far (probe head, crops and flips): with 2 draws it
errs 3.0 % (digits) and 13.7 % (hymenoptera), as far as real runs of other seeds are away; without draws 36 and 51 %.
"""

import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import jax
import numpy as np
import tyro
from missing_rows import missing_rows
from options import Options, Scale
from tables import markdown, share, spread

import linft
from linft import predict
from linft.core.base import Model, Trajectory
from linft.core.draws import still
from linft.core.recipe import Recipe
from linft.runtime import json_lines
from linft.workflows.compare.agreement import loss_curve_error

HEADS: dict[Literal["normal", "probe"], str] = {"probe": "probe", "normal": "fresh"}
WAYS = {"crops, flips": {"augmentation": "crop_flip"}, "mixup": {"mixup": 0.2}}
LINEAR = {"probe": predict.dual, "normal": partial(predict.feature_dual, outputs="low-rank")}
MOVING = {"probe": predict.moving, "normal": partial(predict.moving, at="features")}
WEIGHTS: dict[str, Literal["logits", "features"]] = {"probe": "logits", "normal": "features"}
"""What is linearized under each head."""


@dataclass(frozen=True)
class Config:
    """Sizes of the experiment."""

    tasks: tuple[str, ...] = ("hymenoptera", "fashion", "digits")
    model: str = "resnet14-cifar10"
    train_images: int = 48
    test_images: int = 24
    rates: tuple[tuple[Literal["normal", "probe"], float], ...] = (("probe", 0.001), ("normal", 0.005))
    steps: int = 48
    batch_size: int = 16
    draws: tuple[int, ...] = (0, 1, 4, 8)
    """0: the images as they are."""
    moving_draws: tuple[int, ...] = (0, 2)
    seeds: int = 4


CONFIGS: dict[Scale, Config] = {
    "smoke": Config(
        tasks=("digits",),
        train_images=10,
        test_images=8,
        rates=(("probe", 0.001),),
        steps=4,
        batch_size=5,
        draws=(0, 2),
        moving_draws=(2,),
        seeds=2,
    ),
    "laptop": Config(),
}


def main(options: Options) -> None:
    """Run what is missing, and draw the table."""
    directory, config = options.directory("augmented"), CONFIGS[options.scale]
    if "run" in options.do:
        for row in missing_rows(directory, config, partial(measure, config, options)):
            print(row["key"], json.dumps({kind: found["error"] for kind, found in row["kinds"].items()}), flush=True)
    if "report" in options.do:
        rows = json_lines.read(directory / "rows.jsonl")
        (directory / "table.md").write_text(table(rows))
        print(f"{len(rows)} rows; wrote {directory}/table.md", flush=True)


def measure(config: Config, options: Options, done: set[str]) -> Iterator[dict[str, Any]]:
    """One row for each real run that is not done, beside linear predictions; then one beside those that move."""
    bare = linft.load_model(config.model)
    tasks = options.chosen(config.tasks)
    for (suffix, predicted), name, (head, rate), way in itertools.product(PREDICTED.items(), tasks, config.rates, WAYS):
        key = f"{name} {head} {way}{suffix}"
        if key in done:
            continue
        task = linft.load_task(options.source(name)).subset(config.train_images, config.test_images, seed=0)
        model = bare.with_head(task.num_classes, jax.random.key(0), head, task=task)
        recipe = Recipe(learning_rate=rate, batch_size=config.batch_size, steps=config.steps).replace(**WAYS[way])
        real = linft.finetune(model, task)(recipe)
        yield {
            "key": key,
            "task": name,
            "head": HEADS[head],
            "way": way,
            "rate": rate,
            "fall": float(1 - real.train_loss[-1] / real.train_loss[0]),
            "train_loss": real.train_loss.tolist(),
            "test_accuracy": real.test_accuracy.tolist(),
            "kinds": {kind: _compared(run, real) for kind, run in predicted(config, model, task, head, recipe)},
        }


def _linear(
    config: Config, model: Model, task: linft.Task, head: str, recipe: Recipe
) -> Iterator[tuple[str, Trajectory]]:
    """Real runs to compare with, and linear predictions."""
    train = linft.finetune(model, task)
    for seed in range(1, config.seeds):
        yield f"real, seed {seed}", train(recipe.replace(seed=seed))
    yield "real, none", train(still(recipe))
    yield "linear, new draws", linft.finetune(linft.linearize(model, WEIGHTS[head]), task)(recipe)
    yield from _from_draws("linear", LINEAR[head], config.draws, model, task, recipe)


def _moving(
    config: Config, model: Model, task: linft.Task, head: str, recipe: Recipe
) -> Iterator[tuple[str, Trajectory]]:
    return _from_draws("moving", MOVING[head], config.moving_draws, model, task, recipe)


def _from_draws(
    name: str, kind: Any, draws: tuple[int, ...], model: Model, task: linft.Task, recipe: Recipe
) -> Iterator[tuple[str, Trajectory]]:
    for count in draws:
        if count == 0:
            yield f"{name}, none", kind(model, task)(still(recipe))
        else:
            of_draws = predict.augmented(model, task, recipe, count)
            yield f"{name}, {count} draw{'s' if count > 1 else ''}", kind(model, of_draws)(recipe)


PREDICTED = {"": _linear, " moving": _moving}
"""What is found together, by how the keys of its rows end."""


def _compared(run: Trajectory, real: Trajectory) -> dict[str, Any]:
    return {
        "error": loss_curve_error(run, real),
        "accuracy": float(run.test_accuracy[-1] - real.test_accuracy[-1]),
        "train_loss": run.train_loss.tolist(),
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Median and largest error by head, way and kind."""
    title = (
        "Distance from the train-loss curve of the real run, mean |difference| / mean real loss, and |difference| of "
        "the final test accuracy in points; median (largest) over tasks."
    )
    lines = []
    for head, way in itertools.product(HEADS.values(), WAYS):
        own = [row for row in rows if (row["head"], row["way"]) == (head, way)]
        found: dict[str, list[dict[str, Any]]] = {}
        for row in own:
            for kind, of_kind in row["kinds"].items():
                found.setdefault("real, other seeds" if "seed" in kind else kind, []).append(of_kind)
        falls = {row["task"]: row["fall"] for row in own}  # of each real run once
        fall = share(float(np.median([*falls.values()]))) if falls else "–"
        for kind, several in found.items():
            errors = [np.inf if of["error"] is None else of["error"] for of in several]  # a curve that ends at once
            points = [100 * abs(of["accuracy"]) for of in several]
            lines.append((head, way, fall, kind, len(several), spread(errors, "{:.1%}"), spread(points, "{:.1f}")))
    heads = ("head", "recipe", "real loss fell by", "run", "runs", "curve", "accuracy")
    return markdown(title, heads, lines)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
