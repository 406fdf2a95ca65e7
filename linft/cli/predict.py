"""`linft predict`: predict a fine-tuning run, by the cheapest prediction that is expected to be good enough."""

import logging
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from linft.core.recipe import Recipe

DEFAULT_STEPS = 40


@dataclass(frozen=True)
class Predict:
    """Predict a fine-tuning run from a kernel, without making it.

    Writes prediction.json and trajectories.csv; an interrupted call goes on from the predictions that
    are finished.
    """

    how: Literal["auto", "trace", "dual", "features-trace", "features-low-rank", "relinearize", "features"] = "auto"
    """The kind of prediction; auto takes the cheapest that measured runs say will hold the error, and of runs unlike
    those measured the most exact that fits into memory."""
    error: float = 0.05
    """For auto: error of the train-loss curve to hold, mean |difference| over the mean loss."""
    model: str = "resnet14-cifar10"
    """A shipped model's name, hf:OWNER/NAME, or the path of a file of weights."""
    task: str = "digits"
    """digits, npz:PATH, folder:PATH, tfds:NAME or data:NAME."""
    output: Path = Path("prediction")
    """Directory for everything that is written."""
    train_images: int | None = 200
    """Training images, drawn with the sample seed; None takes all."""
    test_images: int | None = 200
    """Test images, drawn with the sample seed; None takes all."""
    sample_seed: int = 0
    """Seed of the drawn images and of the head."""
    download: bool = False
    """Let tfds:NAME download what is not on disk."""
    head: Literal["probe", "normal", "zeros"] = "probe"
    """The new head: the ridge solution on the training features, random, or zero."""
    head_scale: float = 0.01
    """Standard deviation of a random head."""
    record_every: int | None = None
    """Measure every so many steps; by default about a dozen times."""
    kernel_batch: int = 32
    """Images whose activations are in memory at once while the kernel is computed."""
    recipe: Annotated[Recipe, tyro.conf.OmitArgPrefixes] = Recipe(learning_rate=0.001)

    def __call__(self) -> None:
        """Make the prediction and print it."""
        import jax
        from rich.console import Console

        import linft
        from linft import predict
        from linft.cli.progress import bars
        from linft.core.trajectory_json import trajectory_as_json
        from linft.data.lazy import in_memory
        from linft.predict.choice import FIRST, KINDS, auto
        from linft.report import trajectories
        from linft.runtime.atomic_files import whole
        from linft.runtime.json_files import write_json
        from linft.runtime.versions import versions
        from linft.training import optimizer
        from linft.workflows.compare.store import Store

        console = Console()
        logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stdout, force=True)
        logging.getLogger("linft").setLevel(logging.INFO)
        asked = self.recipe
        if asked.steps is None and asked.epochs is None:
            asked = asked.replace(steps=DEFAULT_STEPS)
        recipe, dropped = predict.nearest(asked)
        task = linft.load_task(self.task, download=self.download)
        task = in_memory(task.subset(self.train_images or len(task.y_train), self.test_images, self.sample_seed))
        model = linft.load_model(self.model)
        key = jax.random.key(self.sample_seed)
        model = model.with_head(task.num_classes, key, self.head, self.head_scale, task=task)
        groups = optimizer.kernel_groups(model.layer_groups, recipe)
        store = Store.open(self.output, "predict", model, task, recipe, {"record_every": self.record_every})
        runs: dict[str, linft.Trajectory] = {}
        with bars(console) as progress:

            def run(kind: str) -> linft.Trajectory:
                """The prediction on disk, or a new one that is kept."""
                if kind not in runs:
                    runs[kind], _ = store.run(
                        kind, lambda: (self._predicted(kind, model, task, recipe, groups, progress), None)
                    )
                return runs[kind]

            chosen = None
            if self.how == "auto":
                chosen = auto(self.error, model, task, asked, lambda: run(FIRST), self.head, self.head_scale)
            kind = self.how if chosen is None else chosen.kind
            found = run(kind)
        result = {
            "schema": "linft-predict-1",
            "model": {"name": model.name},
            "task": {"name": task.name, "classes": task.num_classes, "train_images": len(task.y_train),
                     "test_images": len(task.y_test)},
            "recipe": asdict(recipe),
            "dropped": dropped,
            "how": kind,
            "error": self.error,
            "choice": None if chosen is None else asdict(chosen),
            "runs": {name: trajectory_as_json(trajectory) for name, trajectory in runs.items()},
            "versions": versions(),
        }  # fmt: skip
        write_json(self.output / "prediction.json", result)
        with whole(self.output / "trajectories.csv") as partial:
            partial.write_text(trajectories.table(result), encoding="utf-8")
        for line in [dropped, *findings(kind, KINDS[kind], found, chosen and chosen.reason)]:
            if line:
                console.print(line, soft_wrap=True)
        console.print(f"Written: {self.output / 'prediction.json'}", soft_wrap=True)

    def _predicted(self, kind: str, model: Any, task: Any, recipe: Recipe, groups: Any, progress: Any) -> Any:
        from linft.predict.choice import KINDS

        return KINDS[kind].run(
            model,
            task,
            recipe,
            self.record_every,
            groups=groups,
            batch_size=self.kernel_batch,
            progress=lambda done, total: progress(f"{kind}: kernel", done, total),
        )


def findings(name: str, kind: Any, found: Any, reason: str | None) -> list[str]:
    """What is predicted and by what, in a few lines."""
    lines = [f"Predicted by {name} ({kind.label})" + (f": {reason}." if reason else ".")]
    if kind.cost is not None:
        lines.append(
            f"Where this was measured, one prediction cost {kind.cost:.2g} real runs of 16 epochs on 96 images."
        )
    if found.diverged_at is not None:
        return [*lines, f"The loss is predicted to diverge at step {found.diverged_at}."]
    return [
        *lines,
        f"Train loss falls from {found.train_loss[0]:.3f} to {found.train_loss[-1]:.3f} in {found.steps[-1]} steps, "
        f"test accuracy goes from {found.test_accuracy[0]:.1%} to {found.test_accuracy[-1]:.1%}.",
    ]
