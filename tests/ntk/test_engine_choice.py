"""Which engine computes a kernel, and what is refused before or after it."""

import functools
import importlib.util
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import linft
from linft.core import trees
from linft.core.base import Model
from linft.core.errors import LinftError
from linft.ntk.empirical import empirical_ntk
from linft.ntk.layerwise import plan, rules
from linft.ntk.matrix_free.operator import kernel_operator

SIZE = (4, 4, 3)


class Plain(nn.Module):
    """Every parameter is in a layer that a rule covers."""

    @nn.compact
    def __call__(self, x):
        return nn.Dense(3, name="linear")(nn.tanh(nn.Dense(4, name="hidden")(x)).mean((1, 2)))


class Unseen(Plain):
    """The same, of which no plan is made before its test."""


class Unbounded(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(3, name="linear")(x.mean((1, 2)))


class RawParameter(nn.Module):
    """A scale beside its submodules."""

    @nn.compact
    def __call__(self, x):
        x = self.param("scale", nn.initializers.ones, (4,)).reshape(1, 1, 1, 4) * nn.Dense(4, name="hidden")(x)
        return nn.Dense(3, name="linear")(nn.tanh(x).mean((1, 2)))


class Tied(nn.Module):
    """An embedding that is looked up, and used as a matrix too."""

    @nn.compact
    def __call__(self, x):
        embed = nn.Embed(2, 3, name="embed")
        codes = embed(jnp.argmax(x, -1) % 2).mean((1, 2))
        return nn.Dense(3, name="linear")(nn.tanh(embed.attend(codes + x.mean((1, 2)))))


class Folded(nn.Module):
    """The pixels of all images on one axis."""

    @nn.compact
    def __call__(self, x):
        hidden = nn.tanh(nn.Dense(4, name="hidden")(x.reshape(-1, x.shape[-1])))
        return nn.Dense(3, name="linear")(hidden.reshape(len(x), -1, 4).mean(1))


class Positions(nn.Module):
    """An embedding of the positions, the same for every image."""

    @nn.compact
    def __call__(self, x):
        positions = nn.Embed(16, 3, name="embed")(jnp.arange(16))[None]
        x = nn.Dense(4, name="hidden")(x.reshape(len(x), 16, 3) * positions)
        return nn.Dense(3, name="linear")(nn.tanh(x).mean(1))


class Rematerialized(nn.Module):
    """A layer whose activations are computed again on the way back."""

    @nn.compact
    def __call__(self, x):
        return nn.Dense(3, name="linear")(nn.tanh(nn.remat(nn.Dense)(4, name="hidden")(x)).mean((1, 2)))


class Scale(nn.Module):
    @nn.compact
    def __call__(self, x, times):
        return times * self.param("scale", nn.initializers.ones, (1, 3)) * x


class Conditioned(nn.Module):
    """A layer that takes more than its input."""

    @nn.compact
    def __call__(self, x):
        return nn.Dense(3, name="linear")(nn.tanh(Scale(name="scale")(x.mean((1, 2)), 3)))


class Borrowed(nn.Module):
    """A layer whose kernel is used outside of it, which only the self-check can see."""

    @nn.compact
    def __call__(self, x):
        hidden = nn.Dense(3, name="hidden")
        x = nn.tanh(hidden(x)).mean((1, 2))
        return nn.Dense(3, name="linear")(nn.tanh(x @ hidden.variables["params"]["kernel"]))


@functools.cache
def user(module: nn.Module) -> Model:
    variables = jax.jit(module.init)(jax.random.key(0), jnp.zeros((1, *SIZE)))
    return linft.from_flax(module, variables, "linear", SIZE, layer_groups={"all": tuple(variables["params"])})


X = jax.random.normal(jax.random.key(1), (3, *SIZE))


def explicit(model: Model) -> np.ndarray:
    jacobian = jax.jit(jax.jacobian(lambda params: model.apply(params, X)))(model.params)
    j = np.concatenate([np.reshape(leaf, (3, 3, -1)) for leaf in jax.tree.leaves(jacobian)], axis=-1)
    return np.einsum("ncp,mdp->ncmd", j, j)


UNCOVERED = {
    "the parameter scale belongs to no layer that a rule covers": RawParameter,
    "the module embed uses parameters of its own beside submodules or outside __call__": Tied,
    "hidden does not map one example to one example": Folded,
    "embed does not map one example to one example": Positions,
    "hidden is called inside a transformation, such as remat, scan or jvp": Rematerialized,
    r"a layer is called in a way that its rule cannot follow \(.* missing 1 .* argument: 'times'\)": Conditioned,
}


@pytest.mark.parametrize("reason", UNCOVERED)
def test_models_without_rules_for_all_layers_are_followed_by_their_primitives(caplog, reason):
    model = user(UNCOVERED[reason]())
    with caplog.at_level("INFO", "linft"):
        kernel = empirical_ntk(model, X)
    told = "kernel engine: layerwise, by the primitives of the network because " + reason
    assert re.fullmatch(told, "\n".join(caplog.messages))
    assert kernel.engine == "layerwise"
    np.testing.assert_allclose(kernel.total(), explicit(model), rtol=1e-4, atol=1e-5)


def test_nothing_but_its_own_engine_needs_neural_tangents(without_neural_tangents):
    model = user(RawParameter())
    np.testing.assert_allclose(empirical_ntk(model, X).total(), explicit(model), rtol=1e-4, atol=1e-5)
    with pytest.raises(LinftError, match=r"^neural-tangents is not installed: pip .*$"):
        empirical_ntk(model, X, engine="neural-tangents")


def test_auto_is_layerwise_where_rules_cover_all(caplog):
    model = user(Plain())
    with caplog.at_level("INFO", "linft"):
        kernel = empirical_ntk(model, X)
    assert (caplog.messages, kernel.engine) == (["kernel engine: layerwise"], "layerwise")


def test_the_kernel_of_a_linearized_model_is_its_models():
    model = user(Plain())
    kernel = empirical_ntk(linft.linearize(model), X)
    np.testing.assert_allclose(kernel.total(), explicit(model), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("outputs", ["full", "trace", "pseudo"])
def test_the_self_check_catches_a_wrong_rule(monkeypatch, outputs):
    def doubled(module, params, x, delta):
        gradients = rules._dense(module, params, x, delta)
        return gradients | {"kernel": 2 * gradients["kernel"]}

    wrong = rules.RULES[0]._replace(gradients=doubled)
    monkeypatch.setattr(rules, "RULES", (wrong, *rules.RULES[1:]))
    model = user(Unseen())
    with pytest.raises(LinftError, match=r'kernel of all fails its self-check .* engine="neural-tangents"'):
        empirical_ntk(model, X, outputs=outputs)


def test_the_self_check_catches_a_borrowed_weight():
    model = user(Borrowed())
    with pytest.raises(LinftError, match="the layerwise kernel of all fails its self-check"):
        empirical_ntk(model, X)
    kernel = empirical_ntk(model, X, engine="neural-tangents")
    np.testing.assert_allclose(kernel.total(), explicit(model), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("engine", ["layerwise", "neural-tangents"])
def test_products_run_at_the_highest_precision(engine):
    """Whatever the user's setting; CPUs have one precision, so the setting in force is looked at."""
    model, seen = user(Plain()), []

    def forward(*args):
        seen.append(jax.config.jax_default_matmul_precision)
        return model.forward(*args)

    spied = model.replace(forward=forward)
    plan.plan(spied, X)  # which multiplies nothing
    seen.clear()
    with jax.default_matmul_precision("bfloat16"):
        empirical_ntk(spied, X, engine=engine)
    assert set(seen) == {"highest"}


@pytest.fixture(scope="module")
def unchecked():
    """`empirical_ntk` as users have it: under pytest the type checker refuses a wrong argument before it can."""
    spec = importlib.util.spec_from_file_location(
        "unchecked_empirical", importlib.util.find_spec("linft.ntk.empirical").origin
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.empirical_ntk


REFUSED = [
    ({"x1": X.at[1, 0, 0, 0].set(jnp.nan)}, "image 1 has values that are not finite"),
    ({"x2": X.at[2].set(jnp.inf)}, "image 2 has values that are not finite"),
    ({"x1": X[0]}, r"the images have shape \(4, 4, 3\); give preprocessed images \[n h w c\], n ≥ 1"),
    ({"x2": X[:0]}, r"the images have shape \(0, 4, 4, 3\)"),
    ({"groups": ["all", "stem"]}, "no layer group stem; this model has all"),
    ({"groups": []}, r"no layer group \(none given\); this model has all"),
    ({"groups": {"all": ("hidden",)}}, "parameter linear/bias belongs to no layer group"),
    ({"engine": "fast"}, "engine is 'fast'; choose among auto, layerwise, neural-tangents"),
    ({"precision": "low"}, "precision is 'low'; choose among highest, tensorfloat32, bfloat16"),
    ({"tile": -1}, "tile is -1; it must be 1 or more"),
    ({"outputs": "mean"}, "outputs is 'mean'; choose among full, trace, pseudo"),
    ({"batch_size": 0}, "batch_size is 0; it must be 1 or more"),
]


@pytest.mark.parametrize(("arguments", "message"), REFUSED)
def test_refuses(unchecked, arguments, message):
    with pytest.raises(LinftError, match=message):
        unchecked(user(Plain()), **{"x1": X, **arguments})


def test_refuses_weights_that_are_not_numbers():
    model = user(Plain())
    model = model.replace(params=trees.put(model.params, "hidden/bias", jnp.full(4, jnp.nan)))
    with pytest.raises(LinftError, match="the weights of Plain are not all finite"):
        empirical_ntk(model, X)


def test_names_the_image_whose_kernel_is_not_finite():
    with pytest.raises(LinftError, match=r"the kernel of all is not finite at image 1, .* values are too large"):
        empirical_ntk(user(Unbounded()), X.at[1].set(1e30))


class Normed(nn.Module):
    """Features divided by their norm, which has no derivative where they are all zero."""

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(4, use_bias=False, name="hidden")(x.reshape(len(x), -1))
        return nn.Dense(3, name="linear")(x / (jnp.linalg.norm(x, axis=-1, keepdims=True) + 1e-6))


@pytest.mark.parametrize("engine", ["layerwise", "neural-tangents"])
@pytest.mark.parametrize("tile", [None, 2])
def test_one_image_without_a_derivative_is_the_one_that_is_named(engine, tile):
    """It is in a value of every row of the kernel."""
    model, black = user(Normed()), X.at[2].set(0.0)
    cause = "the network has no finite derivative there, as a norm has none at zero"
    how = {"engine": engine, "tile": tile}
    with pytest.raises(LinftError, match=f"the kernel of all is not finite at image 2, .*{cause}"):
        empirical_ntk(model, black, **how)
    with pytest.raises(LinftError, match=f"the kernel of all is not finite at image 2, .*{cause}"):
        empirical_ntk(model, black, X[:2], **how)
    with pytest.raises(LinftError, match=f"the kernel of all, among its columns, is not finite at image 2, .*{cause}"):
        empirical_ntk(model, X[:2], black, **how)
    if engine == "layerwise":
        with pytest.raises(LinftError, match=f"the product with the kernel is not finite at image 2, .*{cause}"):
            kernel_operator(model, black) @ np.ones(3 * len(black))
        few = kernel_operator(model, X, batch_size=2)  # whose last batch is padded
        np.testing.assert_allclose(few @ np.eye(9)[0], empirical_ntk(model, X).total().reshape(9, 9)[0], rtol=1e-5)


@pytest.mark.parametrize("engine", ["layerwise", "neural-tangents"])
def test_refuses_what_does_not_fit_in_memory(monkeypatch, engine):
    monkeypatch.setattr("linft.ntk.tiled.memory.free_bytes", lambda: 2**32)
    advice = 'use fewer images, fewer groups or outputs="trace"'
    with pytest.raises(LinftError, match=rf"needs about 13.4 GiB \(blocks 13.4\) and 3.2 GiB may be used; {advice}"):
        empirical_ntk(user(Plain()), jnp.zeros((20000, *SIZE)), engine=engine)


def test_progress_counts_images():
    seen = []
    empirical_ntk(user(Plain()), X, batch_size=2, progress=lambda *done: seen.append(done))
    assert seen == [(2, 3), (3, 3)]
