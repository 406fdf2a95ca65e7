"""`linft compare`: predict a fine-tuning run, make it, and write a page that shows both."""

import logging
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from linft.core.recipe import Recipe

DEFAULT_STEPS = 40


@dataclass(frozen=True)
class Compare:
    """Predict fine-tuning from the tangent kernel, fine-tune for real, and report how they agree.

    Without arguments: the ResNet that comes with the package on scikit-learn's digits. Writes
    result.json, trajectories.csv, figures and report.html; an interrupted call goes on from what is
    finished.
    """

    model: str = "resnet14-cifar10"
    """A shipped model's name, hf:OWNER/NAME, or the path of a file of weights."""
    task: str = "digits"
    """digits, npz:PATH, folder:PATH, tfds:NAME or data:NAME."""
    output: Path = Path("comparison")
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
    runs: tuple[str, ...] = ()
    """Runs to make, such as finetuned and dual, or all; by default without those that take as long as the real one."""
    record_every: int | None = None
    """Measure every so many steps; by default about a dozen times."""
    kernel: Literal["full", "trace", "pseudo"] = "full"
    """Kernel that predictions use."""
    engine: Literal["auto", "layerwise", "neural-tangents"] = "auto"
    """What computes the kernel."""
    kernel_batch: int = 32
    """Images whose activations are in memory at once while the kernel is computed."""
    recipe: Annotated[Recipe, tyro.conf.OmitArgPrefixes] = Recipe(learning_rate=0.001)

    def __call__(self) -> None:
        """Run the comparison and print what was found."""
        import jax
        from rich.console import Console

        import linft
        from linft import report
        from linft.cli.progress import bars
        from linft.data.lazy import in_memory

        console = Console()
        logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stdout, force=True)
        logging.getLogger("linft").setLevel(logging.INFO)
        recipe = self.recipe
        if recipe.steps is None and recipe.epochs is None:
            recipe = recipe.replace(steps=DEFAULT_STEPS)
        task = linft.load_task(self.task, download=self.download)
        task = in_memory(task.subset(self.train_images or len(task.y_train), self.test_images, self.sample_seed))
        model = linft.load_model(self.model)
        key = jax.random.key(self.sample_seed)
        model = model.with_head(task.num_classes, key, self.head, self.head_scale, task=task)
        console.print(
            f"{model.name} → {task.name}: {len(task.y_train)} training and {len(task.y_test)} test images, "
            f"{recipe.num_steps(len(task.y_train))} steps, on {jax.default_backend()}"
        )
        with bars(console) as progress:
            comparison = linft.compare(
                model,
                task,
                recipe,
                self.runs,
                self.output,
                record_every=self.record_every,
                outputs=self.kernel,
                engine=self.engine,
                batch_size=self.kernel_batch,
                progress=progress,
            )
        page = report.write(comparison.result, self.output)
        for line in findings(comparison.result):
            console.print(line)
        console.print(f"Report: {page}", soft_wrap=True)


def findings(result: dict[str, Any]) -> list[str]:
    """What was found, in a few lines."""
    from linft.report.figures.attribution import finding
    from linft.report.verdict import left_out

    real = result["runs"][result["reference"]]
    lines = [
        f"Real train loss fell from {real['train_loss'][0]:.3f} to {real['train_loss'][-1]:.3f}, "
        f"test accuracy ended at {real['test_accuracy'][-1]:.1%}."
    ]
    for name, text in (("dual", "The kernel"), ("feature_linearized", "Features linearized")):
        if name in result["agreement"]:
            run, off = result["runs"][name], result["agreement"][name]["train_loss_error"]
            error = "" if off is None else f", its loss curve off by {off:.1%} on average"
            lines.append(f"{text} predicted {run['train_loss'][-1]:.3f} and {run['test_accuracy'][-1]:.1%}{error}.")
    if term := finding(result):
        lines.append(f"{term}.")
    edge = result["stability"]
    where = "below" if edge["stable"] else "beyond"
    lines.append(
        f"The recipe is {where} the edge of stability (h = {max(edge['h'], edge['worst_batch_h']):.2g}, "
        f"limit {edge['limit']:.3g})."
    )
    return lines + left_out(result)
