"""The table of architectures: a name, how to build the module, its input."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from linft.core import trees
from linft.core.base import NEW_HEAD, Model
from linft.core.errors import LinftError
from linft.core.preprocessing import Preprocessing
from linft.core.trees import Groups
from linft.models.architectures.alexnet import AlexNet
from linft.models.architectures.cifar_densenet import CifarDenseNet
from linft.models.architectures.cifar_resnet import CifarResNet
from linft.models.architectures.densenet import DenseNet
from linft.models.architectures.inception import InceptionV4
from linft.models.architectures.mobilenet import MobileNetV1
from linft.models.architectures.resnet import BasicBlock, Bottleneck, ResNet
from linft.models.architectures.resnet_v2 import ResNetV2, bit
from linft.models.architectures.wide_resnet import WideResNet
from linft.models.from_flax import functions, wrap
from linft.models.modes import modes


@dataclass(frozen=True)
class Architecture:
    """A row of the registry."""

    build: Callable[..., nn.Module]
    """Takes num_classes and options; the module has `layer_groups`."""
    preprocessing: Preprocessing
    head: str = "head"
    first: str = "stem/conv/kernel"
    """Path in params of the kernel that images come to."""


IMAGENET = Preprocessing((224, 224, 3), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 0.875, "bilinear")
CIFAR = Preprocessing((32, 32, 3), (0.491, 0.482, 0.447), (0.247, 0.243, 0.262))
SYMMETRIC = partial(Preprocessing, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), crop=0.875, interpolation="bicubic")

BOTTLENECK_V1 = partial(Bottleneck, version="v1")
WIDE = partial(Bottleneck, factor=2)

ARCHITECTURES: dict[str, Architecture] = {
    **{f"cifar_resnet{6 * n + 2}": Architecture(partial(CifarResNet, blocks=n), CIFAR) for n in (1, 2, 3, 5, 7, 9, 18)},
    **{f"cifar_densenet{3 * n + 4}": Architecture(partial(CifarDenseNet, layers=n), CIFAR) for n in (6, 12)},
    "resnet18": Architecture(partial(ResNet, blocks=(2, 2, 2, 2), block=BasicBlock), IMAGENET),
    "resnet34": Architecture(partial(ResNet, blocks=(3, 4, 6, 3), block=BasicBlock), IMAGENET),
    "resnet50": Architecture(partial(ResNet, blocks=(3, 4, 6, 3), block=Bottleneck), IMAGENET),
    "resnet101": Architecture(partial(ResNet, blocks=(3, 4, 23, 3), block=Bottleneck), IMAGENET),
    "resnet152": Architecture(partial(ResNet, blocks=(3, 8, 36, 3), block=Bottleneck), IMAGENET),
    "resnet50_v1": Architecture(partial(ResNet, blocks=(3, 4, 6, 3), block=BOTTLENECK_V1), IMAGENET),
    "resnet101_v1": Architecture(partial(ResNet, blocks=(3, 4, 23, 3), block=BOTTLENECK_V1), IMAGENET),
    "resnet152_v1": Architecture(partial(ResNet, blocks=(3, 8, 36, 3), block=BOTTLENECK_V1), IMAGENET),
    "wide_resnet101_2": Architecture(partial(ResNet, blocks=(3, 4, 23, 3), block=WIDE), IMAGENET),
    "resnetv2_50": Architecture(partial(ResNetV2, blocks=(3, 4, 6, 3)), SYMMETRIC((224, 224, 3))),
    "resnetv2_101": Architecture(partial(ResNetV2, blocks=(3, 4, 23, 3)), SYMMETRIC((224, 224, 3))),
    "resnetv2_50x1_bit": Architecture(partial(bit, blocks=(3, 4, 6, 3)), SYMMETRIC((224, 224, 3))),
    "resnetv2_101x1_bit": Architecture(partial(bit, blocks=(3, 4, 23, 3)), SYMMETRIC((224, 224, 3))),
    **{
        f"wrn{6 * n + 4}_{k}": Architecture(partial(WideResNet, blocks=n, factor=k), CIFAR)
        for n, k in ((2, 4), (2, 8), (4, 10), (6, 2), (6, 4))
    },
    "densenet121": Architecture(partial(DenseNet, layers=(6, 12, 24, 16)), IMAGENET),
    "densenet169": Architecture(partial(DenseNet, layers=(6, 12, 32, 32)), IMAGENET),
    "mobilenet_v1": Architecture(MobileNetV1, SYMMETRIC((224, 224, 3))),
    "inception_v4": Architecture(InceptionV4, SYMMETRIC((299, 299, 3)), first="stem/block0/branch0_0/conv/kernel"),
    "alexnet": Architecture(AlexNet, IMAGENET),
}


def architecture(name: str) -> Architecture:
    """The row of a name."""
    if name not in ARCHITECTURES:
        raise LinftError(f"no architecture {name!r}; choose among {', '.join(ARCHITECTURES)}")
    return ARCHITECTURES[name]


def network(name: str, num_classes: int, options: dict[str, Any]) -> nn.Module:
    """The linen module of a row, with options."""
    try:
        return architecture(name).build(num_classes=num_classes, **options)
    except TypeError as error:
        raise LinftError(f"{name} cannot be built with the options {options} ({error})") from None


def with_options(model: Model, **options: Any) -> Model:
    """The model with some options of its architecture changed, at the same weights, such as `drop_path_rate`.

    Raises:
      LinftError: a model of no registered architecture, or that is linearized or has adapters; options that the
        architecture has not, or at which it has other weights.

    Example:
      >>> model = create("cifar_resnet8", 10, jax.random.key(0), width=4)
      >>> with_options(model, drop_path_rate=0.2).architecture["options"]
      {'width': 4, 'drop_path_rate': 0.2}
    """
    about = model.architecture
    if about is None or set(about) != {"name", "options"}:
        raise LinftError(f"{model.name} is not a plain network of a registered architecture; it has no options")
    options = {**about["options"], **options}
    channels = model.preprocessing.input_size[2]
    found = shapes(about["name"], model.num_classes, options, channels)["params"]
    wanted, own = (trees.put(tree, model.head, {}) for tree in (found, model.params))  # a head of its own
    if jax.tree.map(jnp.shape, wanted) != jax.tree.map(jnp.shape, own):
        raise LinftError(f"{model.name} has other weights at the options {options}")
    variables = {"params": model.params, "batch_stats": model.batch_stats}
    rest = {name: getattr(model, name) for name in ("name", "source", "class_means")}
    return build(about["name"], model.num_classes, variables, model.preprocessing, options, **rest)


def layer_groups(name: str, options: dict[str, Any]) -> Groups:
    """Layer groups of a row, with options.

    Example:
      >>> groups = layer_groups("inception_v4", {})
      >>> len(groups), list(groups)[-3:], groups["stage3.block2"]
      (23, ['stage3.block2', 'stage3.block3', 'head'], ('stage3/block2',))
    """
    any_number_of_classes = 2
    module: Any = network(name, any_number_of_classes, options)
    return module.layer_groups


def build(
    arch: str,
    /,
    num_classes: int,
    variables: dict[str, Any],
    preprocessing: Preprocessing | None = None,
    options: dict[str, Any] | None = None,
    **fields: Any,
) -> Model:
    """A Model of a registered architecture around given variables."""
    row, options = architecture(arch), options or {}
    model = wrap(
        network(arch, num_classes, options),
        variables,
        row.head,
        layer_groups(arch, options),
        preprocessing or row.preprocessing,
        architecture={"name": arch, "options": options},
        **{"name": arch, **fields},
    )
    hashable = {name: tuple(value) if isinstance(value, list) else value for name, value in options.items()}
    forward, forward_train = _functions(arch, tuple(sorted(hashable.items())))
    return model.replace(forward=forward, forward_train=forward_train)


@cache
def _functions(arch: str, options: tuple[tuple[str, Any], ...]) -> tuple[Callable, Callable | None]:
    """The same for all models of an architecture, so that what is compiled for one serves the others."""
    any_number_of_classes = 2  # the head is that of the parameters
    evaluation, training = modes(network(arch, any_number_of_classes, dict(options)))
    return functions(evaluation, training, architecture(arch).head, {})


def shapes(name: str, num_classes: int, options: dict[str, Any] | None = None, channels: int = 3) -> dict[str, Any]:
    """The variables' shapes and types for images of so many channels, without computing them."""
    row = architecture(name)
    module = network(name, num_classes, options or {})
    x = jnp.zeros((1, *row.preprocessing.input_size[:2], channels))
    return jax.eval_shape(module.init, jax.random.key(0), x)


def create(
    name: str, num_classes: int, key: jax.Array, preprocessing: Preprocessing | None = None, **options: Any
) -> Model:
    """A registered architecture at random weights.

    Example:
      >>> import jax
      >>> model = create("cifar_resnet8", num_classes=5, key=jax.random.key(0), width=4)
      >>> list(model.layer_groups), list(model.stages)[1:-1]
      (['stem', 'stage1.block0', 'stage2.block0', 'stage3.block0', 'head'], ['stage1', 'stage2', 'stage3'])
    """
    row = architecture(name)
    module = network(name, num_classes, options)
    size = preprocessing.input_size if preprocessing else row.preprocessing.input_size
    # Optimizing what draws the weights takes XLA's CPU compiler ten times longer than all the rest.
    compiler = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None
    variables = jax.jit(module.init, compiler_options=compiler)(key, jnp.zeros((1, *size)))
    return build(name, num_classes, variables, preprocessing, options, source=NEW_HEAD)
