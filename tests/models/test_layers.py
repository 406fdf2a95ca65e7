"""The convolution that is fast on CPU is lax's, with all its derivatives; a standardized kernel has no scale."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from narrow import NARROW

from linft.models.architectures import layers as module
from linft.models.architectures.layers import LAYOUT, Conv, StandardizedConv, convolution, standardized

NAMES = "height, width, channels, features, size, strides, padding"
CASES = {
    "3x3": (7, 6, 8, 5, (3, 3), (1, 1), ((1, 1), (1, 1))),
    "3x3 by two": (8, 8, 8, 6, (3, 3), (2, 2), ((1, 1), (1, 1))),
    "3x3 by two, odd": (7, 9, 8, 6, (3, 3), (2, 2), ((1, 1), (1, 1))),
    "unequal strides": (9, 8, 8, 4, (3, 3), (2, 1), ((1, 0), (0, 2))),
    "stride beyond the kernel": (11, 11, 8, 4, (2, 2), (3, 3), ((0, 0), (0, 0))),
    "SAME by two": (9, 8, 8, 4, (3, 3), (2, 2), "SAME"),
    "VALID": (8, 8, 8, 4, (3, 3), (1, 1), "VALID"),
    "1x7": (9, 8, 8, 4, (1, 7), (1, 1), ((0, 0), (3, 3))),
    "7x1 by two": (15, 8, 8, 4, (7, 1), (2, 2), ((3, 3), (0, 0))),
    "5x5 by three": (17, 16, 8, 4, (5, 5), (3, 3), ((2, 2), (2, 2))),
    "1x1": (5, 6, 3, 4, (1, 1), (1, 1), "VALID"),
    "1x1 by two": (5, 6, 3, 4, (1, 1), (2, 2), "VALID"),
    "1x1 padded": (5, 6, 3, 4, (1, 1), (2, 2), ((1, 1), (1, 1))),
    "larger than its output": (2, 2, 4, 6, (3, 3), (1, 1), ((1, 1), (1, 1))),
    "larger than its output, by two": (4, 4, 4, 6, (3, 3), (2, 2), ((1, 1), (1, 1))),
    "few channels": (8, 8, 3, 4, (3, 3), (1, 1), "SAME"),
    "cropped": (8, 8, 8, 4, (3, 3), (1, 1), ((-1, 1), (0, 1))),
}
on_cpu = pytest.mark.skipif(jax.default_backend() != "cpu", reason="on an accelerator it is lax's own convolution")


IN_SHORT = ("3x3", "3x3 by two, odd", "7x1 by two", "1x1 by two", "larger than its output, by two", "few channels")


@pytest.fixture(autouse=True)
def however_few(monkeypatch):
    """Small arrays are treated as large ones are."""
    monkeypatch.setattr(module, "FEW_PRODUCTS", 0)


def arrays(height, width, channels, features, size):
    generator = np.random.default_rng(0)
    shapes = ((3, height, width, channels), (*size, channels, features))
    return [jnp.asarray(generator.normal(size=shape), jnp.float32) for shape in (*shapes, *shapes)]


def pair(strides, padding):
    """Ours and lax's as functions of (x, kernel)."""
    rest = (strides, padding, None, None, LAYOUT)
    return lambda x, k: convolution(x, k, *rest), lambda x, k: lax.conv_general_dilated(x, k, *rest)


def assert_close(ours, theirs):
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * float(jnp.abs(b).max()))


def derivatives(f):
    """Value, both tangents, both gradients and a second derivative, of f(x, kernel)."""

    def of(x, kernel, dx, dkernel):
        y, pull = jax.vjp(f, x, kernel)
        cotangent = jnp.cos(jnp.arange(y.size, dtype=y.dtype)).reshape(y.shape)
        tangents = [jax.jvp(lambda k: f(x, k), (kernel,), (dkernel,)), jax.jvp(f, (x, kernel), (dx, dkernel))]
        energy = jax.grad(lambda x, k: (f(x, k) ** 2).sum(), argnums=(0, 1))
        return y, tangents, pull(cotangent), jax.jvp(energy, (x, kernel), (dx, dkernel))[1]

    return jax.jit(of)


@pytest.mark.parametrize(
    NAMES, [pytest.param(*case, id=i, marks=[pytest.mark.slow] * (i not in IN_SHORT)) for i, case in CASES.items()]
)
def test_derivatives(height, width, channels, features, size, strides, padding):
    """Forward, reverse and forward over reverse, by the input and by the kernel."""
    given = arrays(height, width, channels, features, size)
    ours, theirs = (derivatives(f)(*given) for f in pair(strides, padding))
    assert_close(ours, theirs)


@pytest.mark.parametrize("case", ["3x3 by two", "1x1 by two", "larger than its output"])
def test_vmap(case):
    """Over kernels, and over cotangents, as Jacobians need it."""
    *sizes, strides, padding = CASES[case]
    x, kernel, _, other = arrays(*sizes)
    both = jnp.stack([kernel, other])

    def of(f):
        mapped = jax.vmap(f, in_axes=(None, 0))(x, both)
        y, pull = jax.vjp(f, x, kernel)
        forward = jax.vmap(lambda dk: jax.jvp(lambda k: f(x, k), (kernel,), (dk,))[1])(both)
        return mapped, jax.vmap(pull)(jnp.stack([y, jnp.sin(y)])), forward

    ours, theirs = pair(strides, padding)
    assert_close(jax.jit(lambda: of(ours))(), jax.jit(lambda: of(theirs))())


OTHERS = {  # x and kernel from those of images and 3x3 taps, strides and padding, what else is passed
    "groups": (
        lambda x, k: (x, k[:, :, :2]),
        ((1, 1), "SAME"),
        {"dimension_numbers": LAYOUT, "feature_group_count": 4},
    ),
    "dilated kernel": (lambda x, k: (x, k), ((1, 1), "SAME"), {"dimension_numbers": LAYOUT, "rhs_dilation": (2, 2)}),
    "dilated input": (
        lambda x, k: (x, k),
        ((1, 1), ((1, 1), (1, 1))),
        {"dimension_numbers": LAYOUT, "lhs_dilation": (2, 1)},
    ),
    "channels first": (lambda x, k: (x.transpose(0, 3, 1, 2), k.transpose(3, 2, 0, 1)), ((1, 1), "SAME"), {}),
    "bfloat16": (
        lambda x, k: (x.astype(jnp.bfloat16), k.astype(jnp.bfloat16)),
        ((1, 1), "SAME"),
        {"dimension_numbers": LAYOUT},
    ),
    "one axis": (lambda x, k: (x[:, 0], k[0]), ((2,), "SAME"), {"dimension_numbers": ("NWC", "WIO", "NWC")}),
}


@pytest.mark.parametrize(("prepare", "how", "options"), OTHERS.values(), ids=OTHERS)
def test_other_convolutions_are_laxs(prepare, how, options):
    """To the bit."""
    x, kernel, *_ = arrays(8, 8, 8, 4, (3, 3))
    x, kernel = prepare(x, kernel)
    expected = lax.conv_general_dilated(x, kernel, *how, **options)
    np.testing.assert_array_equal(convolution(x, kernel, *how, **options), expected)


def test_layer_is_flaxs():
    """The same parameters, the same output, and still an `nn.Conv`, which rules of layers look for."""
    x, *_ = arrays(8, 8, 8, 4, (3, 3))
    ours, theirs = Conv(4, (3, 3), 2, padding=1), nn.Conv(4, (3, 3), 2, padding=1)
    variables = ours.init(jax.random.key(0), x)
    assert type(ours) is nn.Conv
    assert_close(variables, theirs.init(jax.random.key(0), x))
    assert_close(ours.apply(variables, x), theirs.apply(variables, x))


@on_cpu
@pytest.mark.parametrize(
    ("case", "convolutions"),  # of value and both gradients
    [("3x3", 2), ("1x1 by two", 0), ("larger than its output", 0), ("few channels", 3)],
)
def test_what_is_left_to_lax(case, convolutions):
    """The kernel's gradient is a matrix product; without this, all else would still pass."""
    *sizes, strides, padding = CASES[case]
    x, kernel, *_ = arrays(*sizes)
    ours, _ = pair(strides, padding)
    step = jax.jit(lambda x, k: jax.value_and_grad(lambda x, k: (ours(x, k) ** 2).sum(), argnums=(0, 1))(x, k))
    assert step.lower(x, kernel).as_text().count("stablehlo.convolution") == convolutions


@on_cpu
def test_few_numbers_are_left_to_lax(monkeypatch):
    x, kernel, *_ = arrays(8, 8, 8, 4, (3, 3))
    ours, theirs = pair((1, 1), "SAME")
    monkeypatch.setattr(module, "FEW_PRODUCTS", x.size * 9 * 4 + 1)
    texts = [str(jax.make_jaxpr(lambda k, f=f: jax.grad(lambda k: f(x, k).sum())(k))(kernel)) for f in (ours, theirs)]
    assert texts[0] == texts[1]


def test_on_an_accelerator_it_is_lax(monkeypatch):
    monkeypatch.setattr(module.jax, "default_backend", lambda: "gpu")
    x, kernel, *_ = arrays(8, 8, 8, 4, (3, 3))
    ours, theirs = pair((1, 1), "SAME")
    texts = [
        str(jax.make_jaxpr(lambda x, k, f=f: jax.grad(lambda k: f(x, k).sum())(k))(x, kernel)) for f in (ours, theirs)
    ]
    assert texts[0] == texts[1]


def test_every_output_channel_is_standardized():
    kernel = jax.random.normal(jax.random.key(0), (3, 3, 4, 5)) + 2
    found = np.asarray(standardized(kernel))
    np.testing.assert_allclose(found.mean((0, 1, 2)), 0, atol=1e-6)
    np.testing.assert_allclose(found.std((0, 1, 2)), 1, rtol=1e-5)


def test_is_the_plain_convolution_by_the_standardized_kernel():
    x, layer = jax.random.normal(jax.random.key(1), (2, 9, 8, 4)), StandardizedConv(5, (3, 3), (2, 2), ((1, 1), (1, 1)))
    params = layer.init(jax.random.key(0), x)["params"]
    kernel, padded = standardized(params["kernel"]), np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    patches = np.stack([padded[:, i : i + 9 : 2, j : j + 8 : 2] for i in range(3) for j in range(3)], axis=3)
    expected = np.einsum("nhwti,tio->nhwo", patches, kernel.reshape(9, 4, 5))
    np.testing.assert_allclose(layer.apply({"params": params}, x), expected, rtol=1e-4, atol=1e-5)


def test_bit_does_not_see_scale_and_shift_of_its_kernels():
    model = NARROW["bit"].create(3)
    x = jax.random.normal(jax.random.key(1), (2, 32, 32, 3))
    moved = jax.tree.map(lambda leaf: 3 * leaf - 0.5 if leaf.ndim == 4 else leaf, model.params)
    apply = jax.jit(model.apply)
    np.testing.assert_allclose(apply(moved, x), apply(model.params, x), rtol=1e-4, atol=1e-5)
    assert not model.batch_stats
    assert jnp.abs(apply(model.params, x)).min() > 1e-3
