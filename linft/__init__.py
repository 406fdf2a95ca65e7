"""Linearized fine-tuning: foretell how a pretrained network fine-tunes from its tangent kernel.

Names load on first use, so that the command line answers quickly.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from linft import models as models
    from linft import predict as predict
    from linft import recipes as recipes
    from linft import report as report
    from linft import scores as scores
    from linft.advising.advice import advise as advise
    from linft.base import Kernel as Kernel
    from linft.base import Model as Model
    from linft.base import Run as Run
    from linft.base import Tangent as Tangent
    from linft.base import Trajectory as Trajectory
    from linft.comparison import compare as compare
    from linft.data.load import load_task as load_task
    from linft.depth import Depth as Depth
    from linft.errors import LinftError as LinftError
    from linft.finetuning import finetune as finetune
    from linft.linearization import linearize as linearize
    from linft.models.from_flax import from_flax as from_flax
    from linft.ntk.empirical import empirical_ntk as empirical_ntk
    from linft.ntk.projected import projected_ntk as projected_ntk
    from linft.ranking import Ranking as Ranking
    from linft.ranking import rank as rank
    from linft.recipe import Recipe as Recipe
    from linft.sweeps.sweeping import sweep as sweep
    from linft.task import Task as Task
    from linft.training_run import run_in as run_in
    from linft.zoo.load import load_model as load_model
    from linft.zoo.native import save_model as save_model

__version__ = "0.1.0"

_HOME = {
    "Depth": "linft.depth", "Kernel": "linft.base", "Model": "linft.base", "Run": "linft.base",
    "Tangent": "linft.base", "Trajectory": "linft.base", "compare": "linft.comparison",
    "load_task": "linft.data.load", "LinftError": "linft.errors", "finetune": "linft.finetuning",
    "linearize": "linft.linearization", "from_flax": "linft.models.from_flax",
    "empirical_ntk": "linft.ntk.empirical", "projected_ntk": "linft.ntk.projected",
    "Ranking": "linft.ranking", "rank": "linft.ranking", "Recipe": "linft.recipe", "Task": "linft.task",
    "run_in": "linft.training_run", "sweep": "linft.sweeps.sweeping",
    "load_model": "linft.zoo.load", "save_model": "linft.zoo.native", "advise": "linft.advising.advice",
}  # fmt: skip
_MODULES = ("models", "predict", "recipes", "report", "scores")


def __getattr__(name: str) -> Any:
    if name in _HOME:
        value = getattr(importlib.import_module(_HOME[name]), name)
    elif name in _MODULES:
        value = importlib.import_module(f"linft.{name}")
    else:
        raise AttributeError(f"module 'linft' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME, *_MODULES])
