"""`linft predict`: predict a fine-tuning run, by the cheapest prediction that is expected to be good enough."""

from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from linft.cli.draws import check_draws
from linft.cli.options import ImageOptions, ModelOptions, OutputOptions, TaskOptions, with_length
from linft.core.errors import LinftError, Unavailable
from linft.core.recipe import Recipe

if TYPE_CHECKING:
    from linft.core.band import Band
    from linft.core.base import Model, RunningCurves, Trajectory
    from linft.core.task import Task
    from linft.predict.choice import PredictionKind
    from linft.predict.sharpening import Sharpening
    from linft.runtime.progress import Progress

DEFAULT_STEPS = 40


@dataclass(frozen=True)
class Predict:
    """Predict a fine-tuning run from a kernel, without making it.

    Writes prediction.json and trajectories.csv; an interrupted call goes on from the predictions that
    are finished.
    """

    how: Literal[
        "auto", "trace", "dual", "features-trace", "features-low-rank", "relinearize", "features", "moving",
        "moving-features", "explicit", "explicit-features",
    ] = "auto"  # fmt: skip
    """The kind of prediction; auto moves the kernel along its predicted path until the prediction says by its own
    certificate that it holds the error."""
    error: float = 0.05
    """For auto: error of the train-loss curve to hold, mean |difference| over the mean loss."""
    seeds: int = 1
    """Predict the recipe by so many seeds, its own and those that follow: a band. They are of the order of images, and
    of a random head too, for each of which any kernel but that of features, or its trace, is computed anew."""
    draws: int = 0
    """Follow augmentation and mixup by so many draws of every training image, at as many times the Jacobians; 0 leaves
    both out of the recipe."""
    edge: bool = False
    """Also find how the loss sharpens along the predicted path, and whether the recipe meets the edge of stability
    there, or is expected to break. Of frozen batch norm."""
    task: Annotated[TaskOptions, tyro.conf.OmitArgPrefixes] = TaskOptions("digits")
    images: Annotated[ImageOptions, tyro.conf.OmitArgPrefixes] = ImageOptions(200, 200)
    model: Annotated[ModelOptions, tyro.conf.OmitArgPrefixes] = ModelOptions(head="probe")
    kernel_batch: int = 32
    """Images whose activations are in memory at once while the kernel is computed."""
    writing: Annotated[OutputOptions, tyro.conf.OmitArgPrefixes] = OutputOptions(Path("prediction"))
    recipe: Annotated[Recipe, tyro.conf.OmitArgPrefixes] = Recipe(learning_rate=0.001)

    def __call__(self) -> None:
        """Make the prediction and print it."""
        import linft
        from linft import predict
        from linft.cli.terminal import bars, terminal
        from linft.core.band import band, by_seed, with_seed
        from linft.core.trajectory_json import saved
        from linft.predict.choice import KINDS, PredictMany, auto, by, chosen, under_heads
        from linft.predict.result import FILE, ModelName, PredictionResult
        from linft.predict.sharpening import why_no_edge
        from linft.predict.tangent import mode
        from linft.report import trajectories
        from linft.runtime.atomic_files import whole
        from linft.runtime.versions import versions
        from linft.training import optimizer
        from linft.training.result import summary
        from linft.workflows.compare.store import Store

        console, output = terminal(), self.writing.output
        asked = with_length(self.recipe, steps=DEFAULT_STEPS)
        task = self.images.read(self.task.load())
        model = self.model.with_head(task, self.images.sample_seed)
        batch_norm = mode(model, asked)
        recipe, dropped = predict.nearest(asked, batch_norm, by(self.how), from_draws=self.draws != 0)
        if self.draws:
            if self.how == "relinearize":
                raise LinftError("--how relinearize trains on the images themselves; leave out --draws")
            check_draws([recipe], self.edge)
        if self.edge and (reason := why_no_edge(recipe)):
            raise LinftError(f"leave out --edge: {reason}")
        heads = self.seeds > 1 and self.model.head == "normal"
        recipes = by_seed(recipe, self.seeds, len(task.y_train), heads)
        first = self.images.sample_seed - recipe.seed
        models = [self.model.with_other_head(model, task, first + seed) for seed in recipes]
        groups = optimizer.kernel_groups(model.layer_groups, recipe)
        given = predict.augmented(model, task, recipe, self.draws) if self.draws else task
        options = {"record_every": self.writing.record_every, **({"draws": self.draws} if self.draws else {})}
        store = Store.open(output, "predict", model, task, recipe, options)
        with bars(console) as progress:

            def predicted(kind: str, many: PredictMany, name: str) -> dict[int, linft.Trajectory]:
                """The predictions on disk by seed, or new ones that are kept."""

                @cache
                def made() -> list[linft.Trajectory]:
                    every, of_each = self.writing.record_every, [*recipes.values()]
                    how = {
                        "groups": groups,
                        "batch_norm": batch_norm,
                        "batch_size": self.kernel_batch,
                        "progress": lambda done, total: progress(f"{kind}: kernel", done, total),
                    }
                    if heads:
                        return under_heads(kind, many, models, given, of_each, every, **how)
                    return many(model, given, of_each, every, **how)

                others = f"{name}-heads" if heads else name
                names = {seed: name if seed == recipe.seed else with_seed(others, seed) for seed in recipes}
                return {
                    seed: store.run(of_seed, lambda place=place: (made()[place], None))[0]
                    for place, (seed, of_seed) in enumerate(names.items())
                }

            def automatic() -> tuple[str, dict[int, linft.Trajectory]]:
                """By the first kind that can be had."""
                *others, (last, many_last) = auto(self.error, self.model.head, recipe)
                for kind, many in others:
                    with suppress(Unavailable):
                        return kind, predicted(kind, many, f"{kind}-within-{self.error:g}")
                return last, predicted(last, many_last, last)

            if self.how == "auto":
                kind, of_seeds = automatic()
                choice = chosen(self.error, kind, of_seeds[recipe.seed])
            else:
                kind, of_seeds, choice = self.how, predicted(self.how, KINDS[self.how].many, self.how), None
            sharpens = self.sharpening(model, task, recipe, progress) if self.edge else None
        edge = sharpens.edge(recipe, len(task.y_train)) if sharpens else None
        found, others = of_seeds[recipe.seed], {s: run for s, run in of_seeds.items() if s != recipe.seed}
        result = PredictionResult(
            model=ModelName(name=model.name),
            task=summary(task),
            recipe=recipe,
            dropped=dropped,
            how=kind,
            error=self.error,
            choice=choice,
            runs={kind: saved(found), **{with_seed(kind, seed): saved(run) for seed, run in others.items()}},
            versions=versions(),
            band=band(of_seeds) if others else None,
            heads=heads,
            draws=self.draws,
            edge_on_path=edge,
        )
        store.finish(result, FILE)
        with whole(output / "trajectories.csv") as partial:
            partial.write_text(trajectories.table(result.runs), encoding="utf-8")
        told = [] if result.band is None else [in_words(result.band)]
        told += [] if edge is None else [f"Along the predicted path the recipe {edge}."]
        for line in [dropped, *findings(kind, KINDS[kind], found, choice and choice.reason), *told]:
            if line:
                console.print(line, soft_wrap=True)
        console.print(f"Written: {output / FILE}", soft_wrap=True)

    def sharpening(self, model: "Model", task: "Task", recipe: Recipe, progress: "Progress") -> "Sharpening":
        """How the loss sharpens along the path that a kernel predicts, on disk once it is known."""
        from linft import predict
        from linft.predict.sharpening import kept

        return kept(
            self.writing.output / "path.json",
            lambda: predict.sharpening(
                model,
                task,
                recipe,
                at="network" if self.model.head == "probe" else "features",
                batch_size=self.kernel_batch,
                progress=lambda done, total: progress("path", done, total),
            ),
        )


def findings(name: str, kind: "PredictionKind", found: "Trajectory", reason: str | None) -> list[str]:
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
        f"Train loss goes from {found.train_loss[0]:.3f} to {found.train_loss[-1]:.3f} in {found.steps[-1]} steps, "
        f"test accuracy goes from {found.test_accuracy[0]:.1%} to {found.test_accuracy[-1]:.1%}.",
        *([] if found.running is None else [by_running_averages(found.running)]),
        *([f"{found.note[0].upper()}{found.note[1:]}."] if found.note else []),
        *([f"By its own certificate {found.certificate}."] if found.certificate and not reason else []),
    ]


def by_running_averages(curves: "RunningCurves") -> str:
    """Where a network trained with batch norm in training mode ends, in a line."""
    return (
        f"With the running averages of batch norm's statistics test loss ends at {curves.test_loss[-1]:.3f}, "
        f"test accuracy at {curves.test_accuracy[-1]:.1%}."
    )


def in_words(band: "Band") -> str:
    """How far seeds are apart, in a line."""
    loss, accuracy = (getattr(band, name) for name in ("train_loss", "test_accuracy"))
    broken = f" ({len(band.diverged)} more diverge)" if band.diverged else ""
    return (
        f"By {len(band.seeds)} seeds{broken} train loss ends between {loss.lowest[-1]:.3f} and "
        f"{loss.highest[-1]:.3f}, test accuracy between {accuracy.lowest[-1]:.1%} and {accuracy.highest[-1]:.1%}."
    )
