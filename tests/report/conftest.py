"""A result made of two really trained runs, and the report of it."""

import math
from pathlib import Path

import drawn
import jax
import numpy as np
import pytest

import linft
from linft import report
from linft.core.trajectory_json import saved
from linft.workflows.compare.agreement import Agreement, Level
from linft.workflows.compare.attribution import Attribution, Difference, Link
from linft.workflows.compare.drift import Cosines, Drift, KernelAt
from linft.workflows.compare.result import AboutModel, AboutTask, ComparisonResult, KernelResult, StabilityResult


def kernel_at(step: int, value: float, groups: list[str]) -> KernelAt:
    """One number for all that is measured of a kernel."""
    cosines = Cosines(whole=value, groups=dict.fromkeys(groups, value))
    return KernelAt(step=step, with_start=cosines, with_labels=cosines, norm_ratio=value, effective_rank=value)


@pytest.fixture(scope="session")
def result() -> ComparisonResult:
    """Two recipes trained on 20 digits, called "finetuned" and "dual"; the parts on the kernel are made up."""
    task = linft.load_task("digits").subset(20, 20)
    model = drawn.make(drawn.Normed())
    recipe = linft.Recipe(learning_rate=0.05, batch_size=10, steps=6)
    run = linft.finetune(model, task, record_every=1)
    runs = {"finetuned": saved(run(recipe)), "dual": saved(run(recipe.replace(learning_rate=0.03)))}
    groups = list(model.stages)
    real, dual = (np.array(runs[name].train_loss) for name in ("finetuned", "dual"))
    ends = {
        key: getattr(runs["dual"], key)[-1] - getattr(runs["finetuned"], key)[-1]
        for key in ("train_loss", "test_loss", "test_accuracy")
    }
    total = ends | {"mean_train_loss": float(np.mean(dual - real))}
    share = 1 / len(groups)
    return ComparisonResult(
        model=AboutModel(
            name=model.name,
            architecture={"name": "cifar_resnet8", "width": 4},
            num_classes=10,
            parameters=sum(leaf.size for leaf in jax.tree.leaves(model.params)),
            layer_groups=dict.fromkeys(groups, 100),
            head_scale=0.01,
            source={"data_set": "none", "licence": None},
        ),
        task=AboutTask(
            name=task.name,
            train_images=20,
            test_images=20,
            num_classes=10,
            class_names=["<b>bold</b>", *map(str, range(1, 10))],
        ),
        recipe=recipe,
        reference="finetuned",
        runs=runs,
        skipped={},
        agreement={
            "dual": Agreement(
                train_loss_error=float(np.mean(np.abs(real - dual)) / np.mean(real)),
                steps_to_loss=[
                    Level(level=0.75, loss=1.8, steps=5.0, reference_steps=4.0, relative_error=0.25),
                    Level(level=0.5, loss=1.2, steps=None, reference_steps=None, relative_error=None),
                ],
                test_accuracy_difference=ends["test_accuracy"],
                diverged_at=None,
                reference_diverged_at=None,
            )
        },
        attribution=Attribution(
            links=[Link(start="finetuned", end="dual", cause="beyond first order", **total)], total=Difference(**total)
        ),
        kernel=KernelResult(
            outputs="full",
            engine="layerwise",
            train_images=20,
            test_images=20,
            seconds=1.5,
            eigenvalues=[100 * math.exp(-i / 9) for i in range(50)],
            label_alignment=[0.02] * 50,
            group_share=dict.fromkeys(groups, share),
            drift=Drift(images=20, at=[kernel_at(0, 1.0, groups), kernel_at(6, 0.8, groups)]),
            predicted_drift=Drift(images=20, at=[kernel_at(0, 1.0, groups), kernel_at(6, 0.55, groups)]),
        ),
        stability=StabilityResult(
            loss="cross_entropy",
            lambda_max=100.0,
            h=0.5,
            limit=3.8,
            worst_batch_h=0.7,
            largest_stable_rate=0.38,
            stable=True,
        ),
        versions={"linft": "0.1.0", "jax": "0.12.0"},
        seconds=12.0,
    )


@pytest.fixture(scope="session")
def written(result: ComparisonResult, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of the report."""
    return report.write(result, str(tmp_path_factory.mktemp("report") / "made")).parent
