"""Any linen module as a Model, without changing it: an interceptor catches the input of its head."""

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import errors, nnx
from flax.core import unfreeze

from linft.core import trees
from linft.core.base import Model, dense
from linft.core.errors import LinftError
from linft.core.forward_pass import Forward
from linft.core.preprocessing import Preprocessing
from linft.core.trees import Groups, Tree
from linft.models.modes import Mode, ModeSettings, modes


def from_flax(
    module: nn.Module,
    variables: Mapping[str, Any],
    head: str,
    input_size: tuple[int, int, int],
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    name: str | None = None,
    layer_groups: Groups | None = None,
    preprocessing: Preprocessing | None = None,
    source: Mapping[str, Any] | None = None,
    evaluation: ModeSettings | None = None,
    training: ModeSettings | None = None,
) -> Model:
    """Make a user's linen module and its variables a `Model`.

    The features are the input of the Dense layer at `head`. An argument of the module's `__call__`, or
    an attribute, that tells its mode is found by its usual names: train, training, is_training, is_train,
    deterministic, use_running_average and the like. In training mode every random stream gets a key.

    Args:
      module: called as `module.apply(variables, x)`, giving logits [n c].
      variables: its collections, `params` and maybe `batch_stats`; or the params alone.
      head: path of the last Dense layer in params, such as `"linear"` or `"top/linear"`.
      input_size: height, width and channels.
      mean, std: of each channel, on the scale 0 to 1; 0.5 by default.
      name: for reports; the module's class by default.
      layer_groups: group -> path prefixes; by default one group for each top-level submodule, in call order.
      preprocessing: instead of mean, std and input_size, where resizing or cropping must be told.
      source: what it was pretrained on.
      evaluation, training: what the module is told in each mode, as arguments of its call or attributes,
        where other names are used: `evaluation={"mode": "eval"}, training={"mode": "train"}`.

    Raises:
      LinftError: there is no Dense layer at `head`, or the logits are not head(features); variables or
        modes that are not the module's; a module that is not one of Linen.

    Example:
      >>> import flax.linen as nn, jax, jax.numpy as jnp
      >>> class Net(nn.Module):
      ...     @nn.compact
      ...     def __call__(self, x):
      ...         x = nn.relu(nn.Conv(4, (3, 3), name="conv")(x)).mean((1, 2))
      ...         return nn.Dense(3, name="linear")(x)
      >>> variables = Net().init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
      >>> model = from_flax(Net(), variables, head="linear", input_size=(8, 8, 3))
      >>> model.num_classes, list(model.layer_groups)
      (3, ['conv', 'linear'])
    """
    module, variables = _linen(module), _collections(variables)
    variables = trees.in_precision(variables, trees.precision(variables["params"]))
    params = variables["params"]
    try:
        kernel = trees.get(params, head)["kernel"]
    except (KeyError, TypeError, IndexError):
        names = sorted({trees.path_of(path).rpartition("/")[0] for path, _ in jax.tree.leaves_with_path(params)})
        raise LinftError(f"no Dense layer at head={head!r}; the layers are {', '.join(names)}") from None
    if kernel.ndim != 2:
        raise LinftError(f"the layer at head={head!r} has a kernel of shape {kernel.shape}; it must be a Dense layer")
    channels = input_size[2]
    preprocessing = preprocessing or Preprocessing(input_size, mean or (0.5,) * channels, std or (0.5,) * channels)
    model = wrap(
        module,
        variables,
        head,
        layer_groups or {},
        preprocessing,
        evaluation,
        training,
        name=name or type(module).__name__,
        source=source or {},
    )
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, *preprocessing.input_size)), kernel.dtype)
    order = _verify(model, modes(module, evaluation, training)[0], variables, x)
    return model if layer_groups else model.replace(layer_groups={g: (g,) for g in order})


def wrap(
    module: nn.Module,
    variables: Mapping[str, Any],
    head: str,
    layer_groups: Groups,
    preprocessing: Preprocessing,
    evaluation: ModeSettings | None = None,
    training: ModeSettings | None = None,
    **fields: Any,
) -> Model:
    """A Model around a linen module, unverified."""
    rest = {name: tree for name, tree in variables.items() if name not in ("params", "batch_stats")}
    told = modes(module, evaluation, training)
    forward, forward_train = _shared(*told, head) if not rest and _hashable(told) else functions(*told, head, rest)
    return Model(
        params=variables["params"],
        batch_stats=variables.get("batch_stats", {}),
        forward=forward,
        forward_train=forward_train,
        head=head,
        layer_groups=layer_groups,
        preprocessing=preprocessing,
        module=None if evaluation else module,  # whose own call alone does not tell how it is initialised
        **fields,
    )


def functions(
    evaluation: Mode, training: Mode | None, head: str, rest: Mapping[str, Any]
) -> tuple[Forward, Callable | None]:
    """`Model.forward` and `Model.forward_train` of a module; they take the head from params, whatever its classes.

    Args:
      evaluation, training: the module in its modes.
      rest: the module's collections that are neither params nor batch_stats.
    """

    def forward(params: Tree, batch_stats: Tree, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        features: list[jax.Array] = []
        variables = {"params": params, "batch_stats": batch_stats, **rest}
        with nn.intercept_methods(_own_head(params, head, features)):
            logits: Any = evaluation.module.apply(variables, x, **dict(evaluation.arguments))
        if len(features) != 1:
            raise LinftError(f"the head {head!r} is called {len(features)} times in a forward pass; it must be once")
        return logits, features[0]

    def forward_train(params: Tree, batch_stats: Tree, x: jax.Array, key: jax.Array) -> tuple[jax.Array, Tree]:
        assert training is not None
        variables = {"params": params, "batch_stats": batch_stats, **rest}
        # Streams of other names than dropout draw from the key of params.
        keys: Any = {"dropout": key, "params": jax.random.fold_in(key, 0)}
        try:
            with nn.intercept_methods(_own_head(params, head, [])):
                logits, changed = training.module.apply(
                    variables, x, **dict(training.arguments), mutable=["batch_stats"], rngs=keys
                )
        except errors.ModifyScopeVariableError as error:
            raise LinftError(
                f"in training mode {type(training.module).__name__} changes a collection other than batch_stats, "
                f"which is not kept: {_first_sentence(error)}"
            ) from error
        return logits, changed.get("batch_stats", batch_stats)

    return forward, None if training is None else forward_train


@lru_cache(maxsize=16)
def _shared(evaluation: Mode, training: Mode | None, head: str) -> tuple[Forward, Callable | None]:
    """The same functions for models of equal modules, so that what is compiled for one serves the others."""
    return functions(evaluation, training, head, {})


def _hashable(told: Any) -> bool:
    try:
        hash(told)
    except TypeError:
        return False
    return True


def _linen(module: Any) -> nn.Module:
    """The module, which must be an instance of a Linen module."""
    if isinstance(module, nn.Module):
        return module
    if isinstance(module, type) and issubclass(module, nn.Module):
        raise LinftError(f"{module.__name__} is a class; pass an instance of it, {module.__name__}(…)")
    if isinstance(module, nnx.Module):
        raise LinftError(
            f"{type(module).__name__} is an NNX module and from_flax takes those of Linen; make a linft.Model of the "
            "pure function that nnx.split gives, with forward=(params, batch_stats, x) -> (logits, features)"
        )
    raise LinftError(f"{type(module).__name__} is not a module of flax.linen, which from_flax takes")


def _collections(variables: Any) -> dict[str, Tree]:
    """The variables as plain dicts by collection; params alone are taken for that collection."""
    if not isinstance(variables, Mapping):
        raise LinftError(
            f'variables is a {type(variables).__name__}; pass {{"params": …}}, with "batch_stats" where there are any'
        )
    plain = nn.unbox(unfreeze(dict(variables)))
    return plain if "params" in plain else {"params": plain}


def _why(error: Exception, mode: Mode, x: jax.Array) -> str:
    """Why a module cannot be called in evaluation mode with its variables."""
    name, told = type(mode.module).__name__, ", ".join(f"{name}={value}" for name, value in mode.arguments)
    if isinstance(error, errors.InvalidRngError | errors.ModifyScopeVariableError):
        return (
            f"{name}({told}) is not in evaluation mode ({_first_sentence(error)}); "
            "say by evaluation={…} and training={…} what it is told in each mode"
        )
    if isinstance(error, errors.FlaxError):
        return f"the variables are not those of {name}: {_first_sentence(error)}"
    return f"{name}({told}) fails on images of shape {x.shape}: {type(error).__name__}: {_first_sentence(error)}"


def _first_sentence(error: Exception) -> str:
    """What an error says, without where to read on."""
    return (str(error).splitlines() or [""])[0].partition(" (https://")[0].rstrip(".")


def _own_head(params: Tree, head: str, features: list[jax.Array]) -> Callable:
    """An interceptor that notes the head's input and calls the head of params, which may have other classes."""

    def intercept(call: Callable, args: tuple, kwargs: dict, context: nn.module.InterceptorContext) -> Any:
        if "/".join(context.module.path) != head or context.method_name != "__call__":
            return call(*args, **kwargs)
        if args[0].ndim != 2:
            raise LinftError(f"the input of the head has shape {args[0].shape}; it must be [n d]")
        weights = trees.get(params, head)
        # A layer may compute in less than its weights have.
        features.append(args[0].astype(jnp.promote_types(args[0].dtype, weights["kernel"].dtype)))
        return dense(weights, features[-1])

    return intercept


def _verify(model: Model, mode: Mode, variables: Mapping[str, Any], x: jax.Array) -> list[str]:
    """Refuse a module whose logits are not head(features); return its top-level submodules in call order."""
    order: list[str] = []

    def note(call: Callable, args: tuple, kwargs: dict, context: nn.module.InterceptorContext) -> Any:
        path = context.module.path
        if path and path[0] not in order and path[0] in variables["params"]:
            order.append(path[0])
        return call(*args, **kwargs)

    def as_it_is(variables: Any) -> Any:
        return mode.module.apply(variables, x, **dict(mode.arguments))

    with nn.intercept_methods(note):
        try:
            own = jax.eval_shape(as_it_is, variables)
        except Exception as error:  # whatever a user's code raises
            raise LinftError(_why(error, mode, x)) from error
    if not hasattr(own, "shape") or len(own.shape) != 2:
        raise LinftError(f"the module gives {own}; it must give logits [n c]")

    def keep(call: Callable, args: tuple, kwargs: dict, context: nn.module.InterceptorContext) -> Any:
        output = call(*args, **kwargs)
        if "/".join(context.module.path) == model.head and context.method_name == "__call__":
            outputs.append(output)
        return output

    outputs: list[jax.Array] = []

    @jax.jit
    def verified(variables: Any) -> tuple[jax.Array, ...]:
        logits, features = model.forward(variables["params"], variables.get("batch_stats", {}), x)
        head = trees.get(variables["params"], model.head)
        with nn.intercept_methods(keep):
            original = as_it_is(variables)
        of_head = outputs.pop()
        size = dense(jax.tree.map(jnp.abs, head), jnp.abs(features))
        rounding = 4 * jnp.finfo(of_head.dtype).eps * size.max()  # of a head that computes in low precision
        return original, of_head, logits, dense(head, features), rounding

    original, of_head, logits, composed, rounding = verified(variables)
    if not bool(jnp.isfinite(original).all()):
        raise LinftError("the module gives logits that are not finite on random input; check its variables")
    precision = max(1e-3, 2 * float(jnp.finfo(original.dtype).eps))
    most = precision * (float(jnp.abs(original).max()) + 1e-6)
    pairs = ((original, of_head, most), (logits, composed, most), (of_head, composed, most + float(rounding)))
    if any(a.shape != b.shape or float(jnp.abs(a - b).max()) > apart for a, b, apart in pairs):
        raise LinftError(
            f"the module's logits are not head(features) with the Dense at {model.head!r}; "
            "something comes after it, or it is not the last layer"
        )
    order += [g for g in variables["params"] if g not in order]
    return order
