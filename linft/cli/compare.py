"""`linft compare`: predict a fine-tuning run, make it, and write a page that shows both."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from linft.cli.options import ImageOptions, KernelOptions, ModelOptions, OutputOptions, TaskOptions, with_length
from linft.core.recipe import Recipe

if TYPE_CHECKING:
    from collections.abc import Callable

    from linft.core.base import Model
    from linft.core.task import Task
    from linft.workflows.compare.result import ComparisonResult

DEFAULT_STEPS = 40


@dataclass(frozen=True)
class Compare:
    """Predict fine-tuning from the tangent kernel, fine-tune for real, and report how they agree.

    Without arguments: the ResNet that comes with the package on scikit-learn's digits. Writes
    result.json, trajectories.csv, figures and report.html; an interrupted call goes on from what is
    finished.
    """

    runs: tuple[str, ...] = ()
    """Runs to make, such as finetuned and dual, or all; by default without those that take as long as the real one."""
    seeds: int = 1
    """Seeds of the order of images, and of a random head, the recipe's and those that follow, by which the real run and
    its predictions are made; the predictions are held against the band that the real runs span."""
    draws: int = 0
    """Follow augmentation and mixup by so many draws of every training image, at as many times the Jacobians; 0 leaves
    both out of what predictions follow."""
    task: Annotated[TaskOptions, tyro.conf.OmitArgPrefixes] = TaskOptions("digits")
    images: Annotated[ImageOptions, tyro.conf.OmitArgPrefixes] = ImageOptions(200, 200)
    model: Annotated[ModelOptions, tyro.conf.OmitArgPrefixes] = ModelOptions(head="probe")
    kernel: Annotated[KernelOptions, tyro.conf.OmitArgPrefixes] = KernelOptions()
    writing: Annotated[OutputOptions, tyro.conf.OmitArgPrefixes] = OutputOptions(Path("comparison"))
    recipe: Annotated[Recipe, tyro.conf.OmitArgPrefixes] = Recipe(learning_rate=0.001)

    def __call__(self) -> None:
        """Run the comparison and print what was found."""
        import jax

        import linft
        from linft import report
        from linft.cli.terminal import bars, terminal

        console, output = terminal(), self.writing.output
        recipe = with_length(self.recipe, steps=DEFAULT_STEPS)
        task = self.images.read(self.task.load())
        model = self.model.with_head(task, self.images.sample_seed)
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
                output,
                seeds=self.seeds,
                heads=self.heads(model, task, recipe),
                draws=self.draws,
                record_every=self.writing.record_every,
                **self.kernel.arguments(),
                progress=progress,
            )
        page = report.write(comparison.result, output)
        for line in findings(comparison.result):
            console.print(line)
        console.print(f"Report: {page}", soft_wrap=True)

    def heads(self, model: "Model", task: "Task", recipe: Recipe) -> "Callable[[int], Model] | None":
        """From a seed of the recipe to the model with a head of its own, where heads are drawn."""
        if self.model.head != "normal":
            return None
        return lambda seed: self.model.with_other_head(model, task, self.images.sample_seed + seed - recipe.seed)


SUBJECTS = {
    "dual": "The kernel",
    "explicit": "The Jacobian",
    "moving": "The kernel along its predicted path",
    "moving_features": "The features' kernel along its predicted path",
    "feature_linearized": "Features linearized",
}
"""Runs whose ends are told."""


def findings(result: "ComparisonResult") -> list[str]:
    """What was found, in a few lines."""
    from linft.report.figures.attribution import finding
    from linft.report.verdict import by_running_averages, by_seeds, left_out

    real = result.runs[result.reference]
    lines = [
        f"Real train loss fell from {real.train_loss[0]:.3f} to {real.train_loss[-1]:.3f}, "
        f"test accuracy ended at {real.test_accuracy[-1]:.1%}."
    ]
    for name, text in SUBJECTS.items():
        if name in result.agreement:
            run, off = result.runs[name], result.agreement[name].train_loss_error
            error = "" if off is None else f", its loss curve off by {off:.1%} on average"
            told = f"; beforehand {run.certificate}" if run.certificate else ""
            lines.append(f"{text} predicted {run.train_loss[-1]:.3f} and {run.test_accuracy[-1]:.1%}{error}{told}.")
    lines += [told for told in (by_seeds(result), by_running_averages(result)) if told]
    if term := finding(result):
        lines.append(f"{term}.")
    if (edge := result.stability) is not None:
        where = f"{'below' if edge.stable else 'beyond'} the edge of stability"
        lines.append(f"The recipe is {where} (h = {edge.worst_batch_h:.2g}, limit {edge.limit:.3g}).")
    return lines + left_out(result)
