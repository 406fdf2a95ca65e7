"""Where the gap between reality and theory comes from: a chain of runs, each one simplification from the next.

The terms telescope: they add up to the difference between the last run and the first.
"""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from linft.core.base import Trajectory

CAUSES = {
    "finetuned_train_bn": "",
    "finetuned": "batch norm frozen",
    "moving": "curvature beside the predicted path",
    "feature_linearized": "features to first order",
    "linearized": "network to first order",
    "explicit": "the Jacobian instead of the network",
    "dual": "function space instead of weights",
    "dual_trace": "trace of the kernel alone",
    "dual_full_batch": "full batch instead of minibatches",
    "dual_no_momentum": "no momentum, at η/(1−m)",
    "flow_trace": "continuous time",
}
"""The chain in its order, and what each run simplifies in the one before."""
IN_TRAINING_MODE = {name: why for name, why in CAUSES.items() if name != "finetuned"}
"""The chain of predictions in training mode, towards which frozen batch norm is no step."""


class Link(msgspec.Struct, frozen=True, kw_only=True, rename={"start": "from", "end": "to"}):
    """What one simplification changes: a Struct, since in JSON it says `from`, which no field of Python's can be."""

    start: str
    end: str
    cause: str
    mean_train_loss: float | None
    train_loss: float | None
    test_loss: float | None
    test_accuracy: float | None


@dataclass(frozen=True, kw_only=True)
class Difference:
    """The last run of a chain minus the first."""

    mean_train_loss: float | None
    train_loss: float | None
    test_loss: float | None
    test_accuracy: float | None


@dataclass(frozen=True, kw_only=True)
class Attribution:
    """A chain of runs, and what it adds up to."""

    links: list[Link]
    total: Difference | None
    """None where the chain has no link."""


def summary(run: Trajectory) -> dict[str, float]:
    """The four numbers that are attributed."""
    return {
        "mean_train_loss": float(run.train_loss.mean()),
        "train_loss": float(run.train_loss[-1]),
        "test_loss": float(run.test_loss[-1]),
        "test_accuracy": float(run.test_accuracy[-1]),
    }


def cause(earlier: str, later: str, causes: Mapping[str, str] = CAUSES) -> str:
    """What the later run simplifies in the earlier, with the runs between them that were not made.

    Example:
      >>> cause("finetuned", "dual")
      'features to first order, network to first order'
    """
    order = list(causes)
    between = order[order.index(earlier) + 1 : order.index(later) + 1]
    if len(between) > 1:
        # function space alone changes nothing, and to first order there is no path
        between = [name for name in between if name not in ("explicit", "dual", "moving")]
    return ", ".join(causes[name] for name in between)


def attribute(runs: Mapping[str, Trajectory], causes: Mapping[str, str] = CAUSES) -> Attribution:
    """Differences along the chain of the runs that were made, up to the first that diverged, and their total.

    A term is the value of the later run minus that of the earlier, at the last step, or of the mean
    over the recorded steps for `mean_train_loss`.

    Args:
      causes: the chain, and what each of its runs simplifies.
    """
    chain = []
    for name in causes:
        if name in runs:
            if runs[name].diverged_at is not None:
                break
            chain.append(name)
    values = {name: summary(runs[name]) for name in chain}

    def difference(a: str, b: str) -> dict[str, float]:
        return {key: values[b][key] - values[a][key] for key in values[a]}

    links = [Link(start=a, end=b, cause=cause(a, b, causes), **difference(a, b)) for a, b in itertools.pairwise(chain)]
    return Attribution(links=links, total=Difference(**difference(chain[0], chain[-1])) if links else None)
