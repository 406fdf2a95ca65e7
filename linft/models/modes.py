"""How a linen module is told its mode: by an argument of its call or by an attribute, of whatever name."""

import dataclasses
import inspect
from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn

from linft.core.errors import LinftError

# The names under which linen modules take their mode, with the value for evaluation.
EVALUATION = {
    **dict.fromkeys(("train", "training", "is_training", "is_train", "train_mode", "training_mode"), False),
    **dict.fromkeys(("deterministic", "use_running_average", "eval", "is_eval", "evaluate", "eval_mode"), True),
    **dict.fromkeys(("inference", "inference_mode"), True),
}

ModeSettings = Mapping[str, Any]
"""Name of an argument of the call, or of an attribute -> its value."""


class Mode(NamedTuple):
    """A module in one mode."""

    module: nn.Module
    arguments: tuple[tuple[str, Any], ...]
    """Names and values that its call takes."""


def modes(
    module: nn.Module, evaluation: ModeSettings | None = None, training: ModeSettings | None = None
) -> tuple[Mode, Mode | None]:
    """The module in evaluation mode, and in training mode (None where it has none).

    Args:
      evaluation, training: what the module is told in each, beside what is called as in `EVALUATION`.

    Raises:
      LinftError: a setting of neither name; a call that needs more than the images and these.

    Example:
      >>> import flax.linen as nn
      >>> class Net(nn.Module):
      ...     dropout: bool = True
      ...     train: bool = True
      ...     def __call__(self, x, is_training): ...
      >>> evaluation, training = modes(Net())
      >>> evaluation.module.train, evaluation.arguments, training.arguments
      (False, (('is_training', False),), (('is_training', True),))
    """
    found = _found(module)
    opposite = {name: not value for name, value in found.items()} | dict(training or {})
    return _in_mode(module, found | dict(evaluation or {})), _in_mode(module, opposite) if opposite else None


def _found(module: nn.Module) -> dict[str, bool]:
    """Settings of evaluation mode that a module has, by their usual names."""
    defaults = {name: parameter.default for name, parameter in _call(module).items()}
    taken = {name: getattr(module, name) for name in _attributes(module)} | defaults
    possible = (True, False, None, inspect.Parameter.empty)
    return {name: value for name, value in EVALUATION.items() if name in taken and taken[name] in possible}


def _in_mode(module: nn.Module, settings: ModeSettings) -> Mode:
    call, attributes, name = _call(module), _attributes(module), type(module).__name__
    any_name = any(parameter.kind is parameter.VAR_KEYWORD for parameter in call.values())
    if unknown := [n for n in settings if not (any_name or n in call or n in attributes)]:
        raise LinftError(f"{name} takes no {', '.join(unknown)}, in its call or as an attribute")
    needed = [n for n, parameter in list(call.items())[1:] if _is_needed(parameter)]
    # Where call and attribute share a name, as for `nn.merge_param`, only one of them may be told.
    told = [n for n in settings if n in attributes and (n not in call or n not in needed + _unset(module))]
    arguments = {n: value for n, value in settings.items() if n not in told}
    if missing := [n for n in needed if n not in arguments]:
        example = ", ".join(f'"{n}": …' for n in missing)
        raise LinftError(
            f"the call of {name} needs {', '.join(missing)} beside the images; "
            f"pass evaluation={{{example}}}, and training={{{example}}} if it has such a mode"
        )
    changed = {n: settings[n] for n in told}
    return Mode(module.clone(**changed) if changed else module, tuple(arguments.items()))


def _call(module: nn.Module) -> dict[str, inspect.Parameter]:
    """Parameters of the module's call; the first one is for the images."""
    return dict(list(inspect.signature(type(module).__call__).parameters.items())[1:])


def _attributes(module: nn.Module) -> list[str]:
    return [field.name for field in dataclasses.fields(module) if field.name not in ("parent", "name")]  # pyright: ignore


def _unset(module: nn.Module) -> list[str]:
    return [name for name in _attributes(module) if getattr(module, name) is None]


def _is_needed(parameter: inspect.Parameter) -> bool:
    return parameter.default is parameter.empty and parameter.kind not in (
        parameter.VAR_POSITIONAL,
        parameter.VAR_KEYWORD,
    )
