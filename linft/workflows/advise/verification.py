"""The advised recipe really trained, beside the default one."""

from pathlib import Path
from typing import Any

from linft.core.base import Model
from linft.core.recipe import Recipe
from linft.core.task import Task
from linft.runtime.progress import Progress
from linft.training.run_directory import Diverged, run_in
from linft.workflows.advise.advise import Advice

FINALS = ("accuracy", "mean_per_class_accuracy", "loss", "calibration_error")


def verify(
    advice: Advice,
    model: Model,
    task: Task,
    output: str | Path,
    progress: Progress | None = None,
) -> dict[str, dict[str, Any]]:
    """Train both recipes from the starts that they have; what was begun is gone on with.

    Returns:
      By `advised` and `default`: status (finished or diverged), and of a finished run its accuracy, mean
      accuracy per class, loss and calibration error on the test part, its curve and its seconds.

    Raises:
      LinftError: the directory holds other runs, or cannot be written.
    """
    tell = progress or (lambda what, done, total: None)
    runs: dict[str, tuple[Recipe, int]] = {
        "advised": (advice.recipe, advice.reinit_groups),
        "default": (advice.default, 1),
    }
    found = {}
    for name, (recipe, reinit_groups) in runs.items():
        try:
            done = run_in(Path(output) / name, advice.start(model, task, reinit_groups), task, recipe)
            result = done.result
            found[name] = {"status": "finished", **{key: result["final"][key] for key in FINALS},
                           "seconds": result["trajectory"]["seconds"], "curve": result["trajectory"]}  # fmt: skip
        except Diverged as error:
            found[name] = {"status": "diverged", "reason": str(error)}
        tell(name, 1, 1)
    return found
