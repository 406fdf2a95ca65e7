"""Random projections of per-example gradients beside the exact kernel: error, standard error, time, memory.

    python benchmarks/projection.py [--data npz:PATH] [--images 16] [--dimensions 10000] [--seeds 2]

ResNet-50's shapes at 64×64, random weights and a head of ten classes, real images; one convolution of
each stage and the last one, which is 1×1. All kinds keep about as many numbers of each gradient:

    sparse        the package's: the whole gradient, under sparse random signs
    factors AxB   Kronecker-factored, Φ = Φ_in ⊗ Φ_out: activations projected to A numbers, output gradients
                  to B, contracted over positions after, so the gradient itself is never formed; as
                  many independent repeats of it as fit

The error is that of the whole block [n c n c] in Frobenius norm, relative to it, as root mean square over
seeds; beside it is the one that the standard errors predict. Seconds are of processor time, all cores
together, for n = 16 as measured, and for n = 1000 as they scale: rows with n, products with n².
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jaxtyping import Array, Float

import linft
from linft.core import trees
from linft.core.base import Model
from linft.core.preprocessing import Preprocessing
from linft.ntk.layerwise import projection
from linft.ntk.layerwise.rules import rule_for

LAYERS = (
    "stage1/block1/conv2",
    "stage2/block1/conv2",
    "stage3/block1/conv2",
    "stage4/block1/conv2",
    "stage4/block2/conv3",
)
CLASSES, SIDE, AT_ONCE = 10, 64, 4


class Call(NamedTuple):
    """One layer's call on the images."""

    module: Any
    params: dict[str, Array]
    inputs: Float[Array, "n ..."]
    deltas: Float[Array, "n c ..."]
    """Gradients of the logits at its output."""


Rows = Callable[[Array, Array], Float[Array, "n c dims"]]
"""From a layer's inputs and output gradients to what is kept of its parameter gradients."""


def call_of(model: Model, path: str, x: Float[Array, "n h w ch"]) -> Call:
    """A layer's input and the gradients at its output."""
    seen: dict[str, Any] = {}

    def forward(params: Any, x: Array, perturbation: Array) -> tuple[Array, Array]:
        def intercept(call: Callable, args: tuple, kwargs: dict, context: Any) -> Any:
            output = call(*args, **kwargs)
            if "/".join(context.module.path) != path:
                return output
            seen["module"], seen["input"] = context.module.clone(parent=None, name=None), args[0]
            seen["shape"] = output.shape
            return output + perturbation

        with nn.intercept_methods(intercept):
            return model.apply(params, x), seen["input"]

    jax.eval_shape(forward, model.params, x, jnp.zeros((1,) * 4))

    @jax.jit
    def passes(params: Any, x: Array) -> tuple[Array, Array]:
        logits, pull, inputs = jax.vjp(partial(forward, params, x), jnp.zeros(seen["shape"]), has_aux=True)
        every = jnp.broadcast_to(jnp.eye(CLASSES)[:, None], (CLASSES, *logits.shape))
        return inputs, jax.vmap(lambda e: pull(e)[0])(every).swapaxes(0, 1)

    module, own = seen["module"], trees.get(model.params, path)
    return Call(module, own, *passes(model.params, x))


def exact(call: Call) -> Rows:
    rule = rule_for(call.module)
    return lambda x, delta: rule.gradients(call.module, call.params, x, delta.swapaxes(0, 1))["kernel"]


def sparse(call: Call, path: str, k: int, seed: int) -> Rows:
    whole = exact(call)
    return lambda x, delta: projection.sketch(whole(x, delta), path, k, seed)


def factored(call: Call, k: int, seed: int, a: int, b: int) -> Rows:
    """R^-½ [Φ_in ⊗ Φ_out]_r, r = 1 … R = k/(ab); the projected activations are a convolution by random signs."""
    repeats = k // (a * b)
    of_input, of_output = jax.random.split(jax.random.key(seed))
    *kernel, outputs = call.params["kernel"].shape
    kernel = jax.random.rademacher(of_input, (*kernel, repeats * a), jnp.float32)
    matrix = jax.random.rademacher(of_output, (outputs, repeats * b), jnp.float32) / math.sqrt(repeats * a * b)
    conv = call.module.clone(features=repeats * a)

    def rows(x: Array, delta: Array) -> Array:
        def of_image(image: tuple[Array, Array]) -> Array:  # one at a time: [c positions k] is large
            x, delta = image
            left = conv.apply({"params": {"kernel": kernel}}, x[None]).reshape(-1, repeats, a)
            right = (delta.reshape(CLASSES, len(left), -1) @ matrix).reshape(CLASSES, len(left), repeats, b)
            return jnp.einsum("pra,cprb->crab", left, right).reshape(CLASSES, -1)

        return jax.lax.map(of_image, (x, delta))

    return rows


def product(a: Float[Array, "n c dims"], b: Float[Array, "m c dims"]) -> Float[Array, "n c m c"]:
    flat = a.reshape(-1, a.shape[-1]) @ b.reshape(-1, b.shape[-1]).T
    return flat.reshape(*a.shape[:2], *b.shape[:2])


class Result(NamedTuple):
    block: np.ndarray
    predicted: float
    """√Σ of the entries' variances."""
    rows_seconds: float
    product_seconds: float
    mebibytes: float
    """Of the rows."""


def measure(call: Call, rows: Rows, with_variance: bool) -> Result:
    """The block from these rows, some images at a time; compiling is left out of the time."""
    batches = [
        (call.inputs[i : i + AT_ONCE], call.deltas[i : i + AT_ONCE]) for i in range(0, len(call.inputs), AT_ONCE)
    ]
    rows = jax.jit(rows).lower(*batches[0]).compile()
    parts, rows_seconds = timed(lambda: [rows(*batch) for batch in batches])
    kept = jnp.concatenate(parts)
    del parts
    both = (lambda a: projection.estimate(a, a, product)) if with_variance else (lambda a: (product(a, a), 0.0))
    (block, variance), product_seconds = timed(partial(jax.jit(both).lower(kept).compile(), kept))
    predicted = math.sqrt(float(jnp.sum(variance)))
    return Result(np.asarray(block), predicted, rows_seconds, product_seconds, kept.nbytes / 2**20)


def timed(function: Callable[[], Any]) -> tuple[Any, float]:
    start = time.process_time()
    result = jax.block_until_ready(function())
    return result, time.process_time() - start


@dataclass(frozen=True)
class Options:
    """What is projected."""

    data: str = "npz:../shared/data/ucmerced16_32.npz"
    """Images, as linft names them."""
    images: int = 16
    dimensions: int = projection.DIMENSIONS
    seeds: int = 2


def main(options: Options) -> None:
    """Measure and print."""
    n, k = options.images, options.dimensions
    model = linft.models.create("resnet50", CLASSES, jax.random.key(0), Preprocessing((SIDE, SIDE, 3)))
    x = model.preprocess(linft.load_task(options.data).x_train[:n])
    print(f"resnet50 at {SIDE}×{SIDE}, {n} images, {CLASSES} logits, {k} dimensions, {jax.default_backend()}")
    columns = ("layer", "size", "kind", "error", "predicted", "rows s", "product s", "n=1000 s", "MiB")
    form = "{:20} {:>8} {:15} {:>7} {:>8} {:>7} {:>9} {:>9} {:>7}"
    print(form.format(*columns))
    for path in LAYERS:
        call = call_of(model, path, x)
        truth = measure(call, exact(call), False)
        norm, size = float(np.linalg.norm(truth.block)), call.params["kernel"].size

        def show(kind: str, results: list[Result], truth: Result = truth, norm: float = norm) -> None:
            error = math.sqrt(np.mean([np.sum((r.block - truth.block) ** 2) for r in results])) / norm
            predicted = math.sqrt(np.mean([r.predicted**2 for r in results])) / norm
            rows_s, product_s = (min(s) for s in zip(*(r[2:4] for r in results), strict=True))
            at_1000 = rows_s * 1000 / n + product_s * (1000 / n) ** 2
            seconds = (f"{rows_s:.2f}", f"{product_s:.2f}", f"{at_1000:.0f}")
            errors = (f"{error:.3f}", f"{predicted:.3f}" if predicted else "–")
            print(form.format(path, size, kind, *errors, *seconds, f"{results[0].mebibytes:.0f}"), flush=True)  # noqa: B023

        show("exact", [truth])
        show("sparse", [measure(call, sparse(call, path, k, seed), True) for seed in range(options.seeds)])
        for a, b in ((1, 1), (25, 25), (100, 100)):
            if a * b <= k and a <= size // call.params["kernel"].shape[-1]:
                results = [measure(call, factored(call, k, seed, a, b), False) for seed in range(options.seeds)]
                show(f"factors {a}x{b}", results)


if __name__ == "__main__":
    with jax.default_matmul_precision("highest"):
        main(tyro.cli(Options, description=__doc__))
