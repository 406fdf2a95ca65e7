"""Any linen module as a Model, without changing it: an interceptor catches the input of its head."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from linft import trees
from linft.base import Model, dense
from linft.errors import LinftError
from linft.preprocess import Preprocessing
from linft.trees import Groups, Tree

# The names under which linen modules take their mode, with the value for evaluation.
MODES = {"train": False, "training": False, "is_training": False, "deterministic": True, "use_running_average": True}


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
) -> Model:
    """Make a user's linen module and its variables a `Model`.

    The features are the input of the Dense layer at `head`. The mode argument of the module's
    `__call__` (train, training, is_training, deterministic or use_running_average) is found by name.

    Args:
      module: called as `module.apply(variables, x)`, giving logits [n c].
      variables: its collections, `params` and maybe `batch_stats`.
      head: path of the last Dense layer in params, such as `"linear"` or `"top/linear"`.
      input_size: height, width and channels.
      mean, std: of each channel, on the scale 0 to 1; 0.5 by default.
      name: for reports; the module's class by default.
      layer_groups: group -> path prefixes; by default one group for each top-level submodule, in call order.
      preprocessing: instead of mean, std and input_size, where resizing or cropping must be told.
      source: what it was pretrained on.

    Raises:
      LinftError: there is no Dense layer at `head`, or the logits are not head(features).

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
        name=name or type(module).__name__,
        source=source or {},
    )
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, *input_size)), kernel.dtype)
    order = _verify(model, variables, x)
    return model if layer_groups else model.replace(layer_groups={g: (g,) for g in order})


def wrap(
    module: nn.Module,
    variables: Mapping[str, Any],
    head: str,
    layer_groups: Groups,
    preprocessing: Preprocessing,
    **fields: Any,
) -> Model:
    """A Model around a linen module, unverified."""
    rest = {name: tree for name, tree in variables.items() if name not in ("params", "batch_stats")}
    forward, forward_train = functions(module, head, rest)
    return Model(
        params=variables["params"],
        batch_stats=variables.get("batch_stats", {}),
        forward=forward,
        forward_train=forward_train,
        head=head,
        layer_groups=layer_groups,
        preprocessing=preprocessing,
        module=module,
        **fields,
    )


def functions(module: nn.Module, head: str, rest: Mapping[str, Any]) -> tuple[Callable, Callable | None]:
    """`Model.forward` and `Model.forward_train` of a module; they take the head from params, whatever its classes.

    Args:
      rest: the module's collections that are neither params nor batch_stats.
    """
    modes = modes_of(module)

    def forward(params: Tree, batch_stats: Tree, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        features: list[jax.Array] = []
        with nn.intercept_methods(_own_head(params, head, features)):
            logits = module.apply({"params": params, "batch_stats": batch_stats, **rest}, x, **modes)
        if len(features) != 1:
            raise LinftError(f"the head {head!r} is called {len(features)} times in a forward pass; it must be once")
        return logits, features[0]  # pyright: ignore

    def forward_train(params: Tree, batch_stats: Tree, x: jax.Array, key: jax.Array) -> tuple[jax.Array, Tree]:
        train: Any = {mode: not value for mode, value in modes.items()}
        with nn.intercept_methods(_own_head(params, head, [])):
            logits, changed = module.apply(
                {"params": params, "batch_stats": batch_stats, **rest},
                x,
                **train,
                mutable=["batch_stats"],
                rngs={"dropout": key},
            )
        return logits, changed.get("batch_stats", batch_stats)

    return forward, forward_train if modes else None


def modes_of(module: nn.Module) -> Any:
    """The keyword arguments of evaluation mode that the module's call takes."""
    parameters = inspect.signature(type(module).__call__).parameters
    return {mode: value for mode, value in MODES.items() if mode in parameters}


def _own_head(params: Tree, head: str, features: list[jax.Array]) -> Callable:
    """An interceptor that notes the head's input and calls the head of params, which may have other classes."""

    def intercept(call: Callable, args: tuple, kwargs: dict, context: nn.module.InterceptorContext) -> Any:
        if "/".join(context.module.path) != head or context.method_name != "__call__":
            return call(*args, **kwargs)
        if args[0].ndim != 2:
            raise LinftError(f"the input of the head has shape {args[0].shape}; it must be [n d]")
        features.append(args[0])
        return dense(trees.get(params, head), args[0])

    return intercept


def _verify(model: Model, variables: Mapping[str, Any], x: jax.Array) -> list[str]:
    """Refuse a module whose logits are not head(features); return its top-level submodules in call order."""
    order: list[str] = []

    def note(call: Callable, args: tuple, kwargs: dict, context: nn.module.InterceptorContext) -> Any:
        path = context.module.path
        if path and path[0] not in order and path[0] in variables["params"]:
            order.append(path[0])
        return call(*args, **kwargs)

    module: Any = model.module
    modes = modes_of(module)
    with nn.intercept_methods(note):
        own = jax.eval_shape(lambda: module.apply(variables, x, **modes))
    if not hasattr(own, "shape") or len(own.shape) != 2:
        raise LinftError(f"the module gives {own}; it must give logits [n c]")

    @jax.jit
    def three(params: Tree, batch_stats: Tree) -> tuple[jax.Array, jax.Array, jax.Array]:
        logits, features = model.forward(params, batch_stats, x)
        return module.apply(variables, x, **modes), logits, dense(trees.get(params, model.head), features)

    original, logits, composed = three(model.params, model.batch_stats)
    scale = float(jnp.abs(original).max()) + 1e-6
    if not bool(jnp.isfinite(original).all()):
        raise LinftError("the module gives logits that are not finite on random input; check its variables")
    for other in (logits, composed):
        if original.shape != other.shape or float(jnp.abs(original - other).max()) > 1e-3 * scale:
            raise LinftError(
                f"the module's logits are not head(features) with the Dense at {model.head!r}; "
                "something comes after it, or it is not the last layer"
            )
    order += [g for g in variables["params"] if g not in order]
    return order
