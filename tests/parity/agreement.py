"""How far a network of ours is from its original, both at the same random weights and statistics.

Everything goes through a file, as it does for a user: the original's state dict is written and read by
`load_model`. Its statistics after a step of training and its gradients are written and read in the
same way, as state dicts of their own, so that no map of names but the importer's is needed.
"""

from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import torch
from peers import Peer
from safetensors.numpy import save_file

from linft.core import trees
from linft.core.base import Model

BATCH = 4
BATCH_NORM = torch.nn.modules.batchnorm._BatchNorm
NORMS = (BATCH_NORM, torch.nn.GroupNorm, torch.nn.LayerNorm)
# Without its optimizations the compiler of a CPU takes seconds rather than minutes on the deep ones.
COMPILER = {"xla_backend_optimization_level": 0}


class Agreement(NamedTuple):
    """Relative errors, each the largest of its kind."""

    logits: float
    features: float
    statistics: float
    """Batch statistics after one step in training mode; 0 where there is no batch norm."""
    gradients: float
    parameters: int


def compare(peer: Peer, directory: Path) -> Agreement:
    """The errors of the network that linft makes of the original's state dict."""
    torch.manual_seed(0)
    original = randomised(peer.build(), images(peer.size))
    model = loaded(peer, original.state_dict(), directory)
    x, second = images(peer.size), images(peer.second)
    return Agreement(
        *(max(errors) for errors in zip(*(output_errors(original, model, x) for x in (x, second)), strict=True)),
        statistics=statistics_error(peer, original, model, second, directory),
        gradients=gradients_error(peer, original, model, second, directory),
        parameters=trees.count(model.params),
    )


def images(size: int) -> torch.Tensor:
    """A batch of noise."""
    noise = np.random.default_rng(size).normal(size=(BATCH, 3, size, size))
    return torch.from_numpy(noise.astype(np.float32))


def nhwc(x: torch.Tensor) -> np.ndarray:
    return np.ascontiguousarray(x.numpy().transpose(0, 2, 3, 1))


def randomised(module: torch.nn.Module, x: torch.Tensor) -> torch.nn.Module:
    """The module at random parameters and running statistics, in evaluation mode, without dropout.

    The statistics are near those of the batch, layer by layer: a mean off by a few tenths of a
    deviation, a variance by a factor up to 2. With unrelated ones a deep network's activations explode or die.
    """
    with torch.no_grad():
        for layer in module.modules():
            if isinstance(layer, torch.nn.Conv2d | torch.nn.Linear):
                layer.weight.normal_(std=(2 / layer.weight[0].numel()) ** 0.5)
                if layer.bias is not None:
                    layer.bias.normal_(std=0.1)
            elif isinstance(layer, NORMS):
                layer.weight.uniform_(0.5, 1.5)
                layer.bias.normal_(std=0.2)
            elif isinstance(layer, torch.nn.Dropout):
                layer.p = 0.0
        norms = [layer for layer in module.modules() if isinstance(layer, BATCH_NORM)]
        momenta = [layer.momentum for layer in norms]
        for layer in norms:
            layer.momentum = 1.0  # the statistics of the last batch
        module.train()(x)
        for layer, momentum in zip(norms, momenta, strict=True):
            layer.momentum = momentum
            layer.running_mean += 0.3 * layer.running_var.sqrt() * torch.randn_like(layer.running_mean)
            layer.running_var *= 2 ** (2 * torch.rand_like(layer.running_var) - 1)
    return module.eval()


def loaded(peer: Peer, state: dict[str, torch.Tensor], directory: Path) -> Model:
    """What linft makes of a state dict."""
    arrays = {key: np.ascontiguousarray(value.numpy(force=True)) for key, value in state.items()}
    save_file(arrays, directory / "state.safetensors")
    return peer.load(directory / "state.safetensors")


def output_errors(original: torch.nn.Module, model: Model, x: torch.Tensor) -> tuple[float, float]:
    """Relative errors of the logits and of the features, the input of the last layer, in evaluation mode."""
    last = [layer for layer in original.modules() if isinstance(layer, torch.nn.Linear | torch.nn.Conv2d)][-1]
    inputs = []
    with torch.no_grad(), last.register_forward_pre_hook(lambda layer, args: inputs.append(args[0].flatten(1))):
        logits = original(x)
    got = jax.jit(model.forward, compiler_options=COMPILER)(model.params, model.batch_stats, nhwc(x))
    return relative(got[0], logits.numpy()), relative(got[1], inputs[0].numpy())


def relative(got: Any, expected: np.ndarray) -> float:
    """The largest difference relative to the largest value.

    At random weights much of the output is the same for all images, so a difference between images
    counts for less here; the gradients, in float64, have no such slack.
    """
    assert got.shape == expected.shape
    return float(np.abs(got - expected).max() / np.abs(expected).max())


def statistics_error(peer: Peer, original: torch.nn.Module, model: Model, x: torch.Tensor, directory: Path) -> float:
    """The largest relative error of a norm's batch mean or variance, as one step of training stores them.

    Torch stores the unbiased variance, which is n/(n − 1) times that of the batch of n pixels. In
    float64, because every norm divides by the deviation of a few pixels: layer by layer the round-off
    grows, and of a hundred layers in float32 no digit would be left.
    """
    names = {layer: name for name, layer in original.named_modules() if isinstance(layer, BATCH_NORM)}
    if not names:
        return 0.0
    pixels = {}
    before = {key: value.clone() for key, value in original.state_dict().items()}

    def count(layer: torch.nn.Module, inputs: tuple[torch.Tensor]) -> None:
        pixels[layer] = inputs[0].numel() / inputs[0].shape[1]

    hooks = [layer.register_forward_pre_hook(count) for layer in names]
    with torch.no_grad():
        original.double().train()(x.double())
    for hook in hooks:
        hook.remove()
    after = {key: value.clone() for key, value in original.eval().state_dict().items()}
    original.float()
    original.load_state_dict(before)
    for layer, name in names.items():
        key, kept = f"{name}.running_var", 1 - layer.momentum
        after[key] = kept * before[key] + (after[key] - kept * before[key]) * (1 - 1 / pixels[layer])
    expected = loaded(peer, after, directory).batch_stats
    train = jax.jit(model.forward_train, compiler_options=COMPILER)
    with jax.enable_x64(True):
        _, got = train(*in_double(model, x), jax.random.key(0))

    def error(got: Any, expected: Any, before: Any) -> float:
        got, expected, before = (np.asarray(value) for value in (got, expected, before))
        return float(np.abs(got - expected).max() / np.abs(expected - 0.9 * before).max())

    return max(jax.tree.leaves(jax.tree.map(error, got, expected, model.batch_stats)))


def in_double(model: Model, x: torch.Tensor) -> Any:
    """Params, batch statistics and images in float64."""
    return jax.tree.map(lambda v: jnp.asarray(v, "float64"), (model.params, model.batch_stats, nhwc(x)))


def gradients_error(peer: Peer, original: torch.nn.Module, model: Model, x: torch.Tensor, directory: Path) -> float:
    """The largest ‖g − g'‖ / ‖g'‖ of an array of parameters, g being gradients of the cross-entropy.

    In evaluation mode, where the loss is a well-conditioned function of the weights: in training mode
    batch statistics divide by deviations near zero and cancel the gradient along each kernel. In
    float64, because a ReLU's derivative jumps: with an error ε of the activations, a share of about ε
    of all units falls on the wrong side, so float32 gradients of the same network agree only to about √ε.
    An array below 1e-4 of the whole gradient is measured against that: its error is the others' round-off.
    """
    labels = torch.arange(BATCH) % 3
    original.double().zero_grad()
    torch.nn.functional.cross_entropy(original(x.double()), labels).backward()
    gradients = {name: parameter.grad.float() for name, parameter in original.named_parameters()}
    original.float()
    expected = [
        np.asarray(g) for g in jax.tree.leaves(loaded(peer, original.state_dict() | gradients, directory).params)
    ]

    def loss(params: Any, batch_stats: Any, x: Any) -> Any:
        logits, _ = model.forward(params, batch_stats, x)
        return -jnp.take_along_axis(jax.nn.log_softmax(logits), labels.numpy()[:, None], axis=1).mean()

    with jax.enable_x64(True):
        got = jax.tree.leaves(jax.jit(jax.grad(loss), compiler_options=COMPILER)(*in_double(model, x)))
    floor = 1e-4 * np.sqrt(sum(np.linalg.norm(g) ** 2 for g in expected))
    errors = [
        np.linalg.norm(np.asarray(g) - h) / max(np.linalg.norm(h), floor) for g, h in zip(got, expected, strict=True)
    ]
    return float(max(errors))
