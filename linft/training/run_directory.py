"""One fine-tuning run that lives in a directory: configuration, metrics, checkpoints, weights, result."""

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jax
import yaml

from linft.core import trees
from linft.core.base import Model, Trajectory
from linft.core.errors import LinftError
from linft.core.recipe import Recipe
from linft.core.task import Task
from linft.core.trajectory_json import saved
from linft.models.lora import without_adapters
from linft.runtime import checkpoints, schema
from linft.runtime.atomic_files import whole
from linft.runtime.claims import claim
from linft.runtime.json_files import plain, read_json, write_json
from linft.runtime.versions import versions
from linft.training import metrics
from linft.training.finetune import finetune
from linft.training.history import Tracking
from linft.training.pretrain import measured, settings
from linft.training.result import ModelSummary, RunResult, summary
from linft.training.step import Execution
from linft.zoo.importers.native import save_model
from linft.zoo.load import load_model
from linft.zoo.plain import load_tensors, save_tensors

CONFIG, IDENTITY, RESULT, WEIGHTS = "config.yaml", "identity.json", "result.json", "model.safetensors"
LENGTHS = ("steps", "epochs", "until")

log = logging.getLogger("linft")


class Diverged(LinftError):
    """A run whose loss was not finite, or far above the first."""


@dataclass(frozen=True)
class RunOptions:
    """How a run is carried out and what is kept of it; nothing here changes what it computes, but for rounding."""

    execution: Execution = Execution()
    workers: int = 0
    """Processes that read a streamed task's images."""
    record_every: int | None = None
    """Measure, and write a checkpoint, every so many steps; about a dozen times by default."""
    keep: int = 3
    """How many of the newest checkpoints are kept, beside the best."""


@dataclass(frozen=True)
class FinishedRun:
    """A finished run."""

    result: RunResult
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
    conduct: RunOptions = RunOptions(),
    tracking: Tracking | None = None,
) -> FinishedRun:
    """Fine-tune in a directory, which afterwards holds config.yaml, checkpoints, model.safetensors and result.json.

    A directory that holds the same run goes on from its newest checkpoint, and a finished one is only read.
    It is the same if recipe, weights and images are, whatever these are called (identity.json has their
    digests). A run that is the same but shorter goes on to the new length: at a constant rate as if that had
    been asked for at first; of a schedule over the whole run the longer one holds from there on, which is said.
    The weights of a network of no registered architecture are plain named tensors. Adapters are folded into the model.

    Args:
      until: stop after so many steps of the recipe.
      config: what describes the run in config.yaml, as JSON has it; by default the recipe and the names.
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
      >>> sorted(path.name for path in Path(directory).iterdir()), len(done.result.final.confusion_matrix)
      (['checkpoints', 'config.yaml', 'identity.json', 'model.safetensors', 'result.json'], 10)
    """
    path = Path(directory)
    described = {"model": model.name, "task": task.name, "recipe": asdict(recipe), "until": until}
    described = plain(dict(config or described))
    identity = _identity(model, task, recipe, until, conduct)
    (lengthen if _is_longer(path, described, identity) else begin)(path, described, identity)
    total = recipe.num_steps(len(task.y_train))
    if _finished(path, total if until is None else min(until, total)):
        return FinishedRun(
            schema.read(path / RESULT, RunResult), _load_weights(without_adapters(model), path / WEIGHTS), None
        )
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
    tuned = without_adapters(trajectory.model)
    logits = tuned.logits_of(task.x_test)
    tuned = measured(tuned, task, logits)
    tuned = tuned.replace(source={**tuned.source, "recipe": settings(recipe), "init": model.name})
    result = RunResult(
        model=ModelSummary(name=model.name, parameters=trees.count(model.params)),
        task=summary(task),
        final=metrics.evaluate(logits, task.y_test, recipe.loss),
        trajectory=saved(trajectory),
        config=described,
        versions=versions(),
    )
    if jax.process_index() == 0:
        (path / WEIGHTS).unlink(missing_ok=True)  # of a shorter run; those beside a result are its own
        schema.write(path / RESULT, result)
        save_weights(tuned, path / WEIGHTS)
    return FinishedRun(result, tuned, None if trajectory.best is None else without_adapters(trajectory.best))


def begin(path: Path, config: Mapping[str, Any], identity: Mapping[str, Any]) -> None:
    """Write the configuration of a run into its directory, and what else its numbers depend on; or find the same there.

    Raises:
      LinftError: another run is there (naming what differs), or it cannot be read or written.
    """
    if jax.process_index() == 0 or (path / IDENTITY).exists():
        claim(path / IDENTITY, _claimed(config, identity), "a run")
    if jax.process_index() == 0 and not (path / CONFIG).exists():
        _write_config(path, config)


def lengthen(path: Path, config: Mapping[str, Any], identity: Mapping[str, Any]) -> None:
    """Write the greater length of a run into its directory; its steps so far are kept."""
    schedule = identity["recipe"]["schedule"]
    if schedule != "constant":
        log.warning("%s goes on to a greater length: its steps so far had the %s rates of the shorter", path, schedule)
    if jax.process_index() == 0:
        _write_config(path, config)
        write_json(path / IDENTITY, _claimed(config, identity))


def _is_longer(path: Path, config: Mapping[str, Any], identity: Mapping[str, Any]) -> bool:
    """Whether a directory holds this run but for its length, which was less."""
    if not (path / IDENTITY).exists():
        return False
    before, now = _flat(read_json(path / IDENTITY)), _flat(plain(_claimed(config, identity)))
    differing = [key for key in {**before, **now} if before.get(key) != now.get(key)]

    def longer(key: str) -> bool:
        old, new = before.get(key), now.get(key)
        if key.removeprefix("recipe.") not in LENGTHS or old is None:
            return False
        return new > old if new is not None else key == "until"

    return bool(differing) and all(map(longer, differing))


def _claimed(config: Mapping[str, Any], identity: Mapping[str, Any]) -> dict[str, Any]:
    return {**{key: value for key, value in config.items() if key not in identity}, **identity}


def _flat(claimed: Mapping[str, Any]) -> dict[str, Any]:
    """With each of the recipe's settings by itself."""
    recipe = claimed.get("recipe")
    return (
        {**claimed, "recipe": "", **{f"recipe.{k}": v for k, v in recipe.items()}}
        if isinstance(recipe, dict)
        else {**claimed}
    )


def _finished(path: Path, end: int) -> bool:
    """Whether a directory has the result of a run to this step, and its weights, which are written after it."""
    if not ((path / RESULT).exists() and (path / WEIGHTS).exists()):
        return False
    return schema.read(path / RESULT, RunResult).trajectory.steps[-1] == end


def _write_config(path: Path, config: Mapping[str, Any]) -> None:
    with whole(path / CONFIG) as partial:
        partial.write_text(yaml.safe_dump(plain(config), sort_keys=False, allow_unicode=True), encoding="utf-8")


def save_weights(model: Model, path: Path) -> None:
    """A file of a model; of a network that is of no registered architecture its tensors alone."""
    (save_tensors if model.architecture is None else save_model)(model, path)


def _load_weights(model: Model, path: Path) -> Model:
    return load_tensors(model, path) if model.architecture is None else load_model(path)


def _identity(model: Model, task: Task, recipe: Recipe, until: int | None, conduct: RunOptions) -> dict[str, Any]:
    """All that a run's numbers depend on."""
    return {
        "weights": model.digest,
        "images": task.digest,
        "recipe": asdict(recipe),
        "until": until,
        "precision": conduct.execution.precision,
        "accumulate": conduct.execution.accumulate,
        "record_every": conduct.record_every,
    }


def _why(trajectory: Trajectory, rates: Any, path: Path) -> str:
    step = trajectory.diverged_at
    assert step is not None
    return (
        f"the loss was not finite or far above the first at step {step}, with learning rate {rates[step - 1]:.3g}; "
        f"the last good checkpoint is of step {trajectory.steps[-1]} in {path / 'checkpoints'}; "
        "use a smaller learning rate, or a warm-up"
    )
