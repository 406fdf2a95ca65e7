"""Linearized fine-tuning: predict how a pretrained network fine-tunes from its tangent kernel.

Names load on first use, so that the command line answers quickly.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from linft import models as models
    from linft import predict as predict
    from linft import report as report
    from linft import scores as scores
    from linft.core import paper_recipes as recipes  # noqa: F401
    from linft.core.base import Kernel as Kernel
    from linft.core.base import Model as Model
    from linft.core.base import Run as Run
    from linft.core.base import Tangent as Tangent
    from linft.core.base import Trajectory as Trajectory
    from linft.core.errors import LinftError as LinftError
    from linft.core.layer_settings import LayerSettings as LayerSettings
    from linft.core.recipe import Recipe as Recipe
    from linft.core.task import Task as Task
    from linft.data.load import load_task as load_task
    from linft.models.from_flax import from_flax as from_flax
    from linft.models.linearize import linearize as linearize
    from linft.models.lora import lora as lora
    from linft.models.lora import merged as merged
    from linft.ntk.empirical import empirical_ntk as empirical_ntk
    from linft.ntk.projected import projected_ntk as projected_ntk
    from linft.training.finetune import finetune as finetune
    from linft.training.run_directory import run_in as run_in
    from linft.workflows.advise.advise import advise as advise
    from linft.workflows.compare.compare import compare as compare
    from linft.workflows.rank.rank import Ranking as Ranking
    from linft.workflows.rank.rank import rank as rank
    from linft.workflows.sweep.sweep import sweep as sweep
    from linft.zoo.importers.native import save_model as save_model
    from linft.zoo.load import load_model as load_model

__version__ = "0.1.0"

_HOME = {
    "advise": "linft.workflows.advise.advise",
    "compare": "linft.workflows.compare.compare",
    "empirical_ntk": "linft.ntk.empirical",
    "finetune": "linft.training.finetune",
    "from_flax": "linft.models.from_flax",
    "Kernel": "linft.core.base",
    "LayerSettings": "linft.core.layer_settings",
    "linearize": "linft.models.linearize",
    "LinftError": "linft.core.errors",
    "load_model": "linft.zoo.load",
    "load_task": "linft.data.load",
    "lora": "linft.models.lora",
    "merged": "linft.models.lora",
    "Model": "linft.core.base",
    "projected_ntk": "linft.ntk.projected",
    "rank": "linft.workflows.rank.rank",
    "Ranking": "linft.workflows.rank.rank",
    "Recipe": "linft.core.recipe",
    "Run": "linft.core.base",
    "run_in": "linft.training.run_directory",
    "save_model": "linft.zoo.importers.native",
    "sweep": "linft.workflows.sweep.sweep",
    "Tangent": "linft.core.base",
    "Task": "linft.core.task",
    "Trajectory": "linft.core.base",
}
_MODULES = {
    "models": "linft.models",
    "predict": "linft.predict",
    "recipes": "linft.core.paper_recipes",
    "report": "linft.report",
    "scores": "linft.scores",
}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        value = getattr(importlib.import_module(_HOME[name]), name)
    elif name in _MODULES:
        value = importlib.import_module(_MODULES[name])
    else:
        raise AttributeError(f"module 'linft' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME, *_MODULES])
