"""One fine-tuning run that lives in a directory: configuration, metrics, checkpoints, weights, result."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jax
import yaml

from linft import checkpoints, evaluation, trees
from linft.base import Model, Trajectory
from linft.errors import LinftError
from linft.files import whole
from linft.finetuning import finetune
from linft.pretraining import measured, settings
from linft.recipe import Recipe
from linft.recording import Tracking
from linft.store import Store, read_json, versions
from linft.task import Task
from linft.training import Execution
from linft.zoo.load import load_model
from linft.zoo.native import save_model

CONFIG, RESULT, WEIGHTS = "config.yaml", "result.json", "model.safetensors"


class Diverged(LinftError):
    """A run whose loss was not finite, or far above the first."""


@dataclass(frozen=True)
class Conduct:
    """How a run is carried out and what is kept of it; nothing here changes what it computes, but for rounding."""

    execution: Execution = Execution()
    workers: int = 0
    """Processes that read a streamed task's images."""
    record_every: int | None = None
    """Measure, and write a checkpoint, every so many steps; about a dozen times by default."""
    keep: int = 3
    """How many of the newest checkpoints are kept, beside the best."""


@dataclass(frozen=True)
class Done:
    """A finished run."""

    result: dict[str, Any]
    """What result.json holds."""
    model: Model
    best: Model | None
    """At the recorded step of greatest test accuracy; None where the run was read from disk."""


def run_in(
    directory: str | Path,
    model: Model,
    task: Task,
    recipe: Recipe,
    *,
    until: int | None = None,
    config: Mapping[str, Any] | None = None,
    conduct: Conduct = Conduct(),
    tracking: Tracking | None = None,
) -> Done:
    """Fine-tune in a directory, which afterwards holds config.yaml, checkpoints, model.safetensors and result.json.

    A directory that holds the same run goes on from its newest checkpoint, and a finished one is only read.

    Args:
      until: stop after so many steps of the recipe.
      config: what describes the run, as JSON has it; by default the recipe and the names.
      conduct: devices and checkpoints.
      tracking: opens what the run's numbers are written to.

    Raises:
      LinftError: the directory holds another run, or cannot be written to.
      Diverged: with the step, the learning rate and the last good checkpoint.
      KeyboardInterrupt: after SIGTERM or Ctrl-C, with a checkpoint written.

    Example:
      >>> import jax, linft, tempfile
      >>> task = linft.load_task("digits").subset(20, 20)
      >>> model = linft.models.create("cifar_resnet8", 10, jax.random.key(0), width=2)
      >>> directory = tempfile.mkdtemp()
      >>> done = run_in(directory, model, task, linft.Recipe(steps=2, batch_size=10))
      >>> sorted(path.name for path in Path(directory).iterdir()), len(done.result["final"]["confusion_matrix"])
      (['checkpoints', 'config.yaml', 'model.safetensors', 'result.json'], 10)
    """
    path = Path(directory)
    described = {"model": model.name, "task": task.name, "recipe": asdict(recipe), "until": until}
    described = json.loads(json.dumps(dict(config or described)))
    claim(path, described)
    if (path / RESULT).exists():
        return Done(read_json(path / RESULT), load_model(path / WEIGHTS), None)
    with checkpoints.open(path / "checkpoints", conduct.keep) as kept:
        trajectory = finetune(
            model,
            task,
            record_every=conduct.record_every,
            tracking=tracking,
            execution=conduct.execution,
            workers=conduct.workers,
            checkpoints=kept,
            until=until,
        )(recipe)
    if trajectory.diverged_at is not None:
        raise Diverged(_why(trajectory, recipe.rates(len(task.y_train)), path))
    assert trajectory.model is not None
    logits = trajectory.model.logits_of(task.x_test)
    tuned = measured(trajectory.model, task, logits)
    tuned = tuned.replace(source={**tuned.source, "recipe": settings(recipe), "init": model.name})
    result = {
        "model": {"name": model.name, "parameters": trees.count(model.params)},
        "task": {"name": task.name, "classes": task.num_classes, **_counts(task)},
        "final": evaluation.evaluate(logits, task.y_test, recipe.loss),
        "trajectory": Store.as_json(trajectory),
        "config": described,
        "versions": versions(),
    }
    if jax.process_index() == 0:
        save_model(tuned, path / WEIGHTS)
        Store(path).write(RESULT, result)
    return Done(result, tuned, trajectory.best)


def claim(path: Path, config: Mapping[str, Any]) -> None:
    """Write a run's configuration into its directory, or find the same there.

    Raises:
      LinftError: another configuration is there (naming what differs), or it cannot be read or written.
    """
    file = path / CONFIG
    if file.exists():
        try:
            before = yaml.safe_load(file.read_text(encoding="utf-8"))
        except (OSError, yaml.YAMLError) as error:
            raise LinftError(f"{file} is not readable YAML ({error}); delete {path} to start anew") from None
        differing = [key for key in {**before, **config} if before.get(key) != config.get(key)]
        if differing:
            raise LinftError(
                f"{path} holds a run with another {', '.join(differing)}; choose another output directory or delete it"
            )
    elif jax.process_index() == 0:
        with whole(file) as partial:
            partial.write_text(yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True), encoding="utf-8")


def _counts(task: Task) -> dict[str, int]:
    return {"train_images": len(task.y_train), "test_images": len(task.y_test)}


def _why(trajectory: Trajectory, rates: Any, path: Path) -> str:
    step = trajectory.diverged_at
    assert step is not None
    return (
        f"the loss was not finite or far above the first at step {step}, with learning rate {rates[step - 1]:.3g}; "
        f"the last good checkpoint is of step {trajectory.steps[-1]} in {path / 'checkpoints'}; "
        "use a smaller learning rate, or a warm-up"
    )
