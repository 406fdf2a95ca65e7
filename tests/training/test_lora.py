"""Training adapters of low rank is training A and B of the plain network at W + (α/r) A B, and its head."""

import drawn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import linft
from linft.core.recipe import Recipe

SCALE = 3.0
LAYERS = ("stage1", "stage2")


@pytest.mark.parametrize("batch_norm", ["frozen", "train"])
def test_a_run_is_that_of_the_plain_network(x64, digits, batch_norm):
    task = digits.subset(12, 5, seed=0)
    plain = drawn.make(drawn.Normed())
    plain = plain.replace(params=jax.tree.map(lambda w: jnp.asarray(w, float), plain.params))
    adapted = linft.lora(plain, rank=2, alpha=2 * SCALE, key=jax.random.key(0))
    recipe = Recipe(learning_rate=0.05, momentum=0.8, nesterov=False, weight_decay=0.1, batch_size=4, steps=6,
                    batch_norm=batch_norm)  # fmt: skip
    run = linft.finetune(adapted, task, record_every=6)(recipe)

    x, y, statistics = plain.preprocess(task.x_train), jnp.asarray(task.y_train), plain.batch_stats

    def whole(own):
        params = {layer: dict(plain.params[layer]) for layer in LAYERS} | {"head": own["head"]}
        for layer in LAYERS:
            a, b = own[layer]
            w = plain.params[layer]["conv"]["kernel"]
            moved = w + SCALE * (a.reshape(-1, 2) @ b).reshape(w.shape)
            params[layer]["conv"] = {**plain.params[layer]["conv"], "kernel": moved}
        return params

    def loss_of(own, statistics, batch):
        if batch_norm == "train":
            logits, statistics = plain.forward_train(whole(own), statistics, x[batch], jax.random.key(0))
        else:
            logits = plain.forward(whole(own), statistics, x[batch])[0]
        return optax.softmax_cross_entropy_with_integer_labels(logits, y[batch]).mean(), statistics

    own = {layer: tuple(adapted.params[layer]["conv"].values()) for layer in LAYERS} | {"head": plain.params["head"]}
    chain = optax.chain(optax.add_decayed_weights(0.1), optax.sgd(0.05, momentum=0.8))
    state, gradient = chain.init(own), jax.jit(jax.grad(loss_of, has_aux=True))
    for batch in recipe.batches(12):
        gradients, statistics = gradient(own, statistics, batch)
        updates, state = chain.update(gradients, state, own)
        own = optax.apply_updates(own, updates)

    found = linft.merged(run.model)
    for ours, theirs in zip(
        jax.tree.leaves((found.params, found.batch_stats)), jax.tree.leaves((whole(own), statistics)), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-12)
    moved = jnp.abs(found.params["stage1"]["conv"]["kernel"] - plain.params["stage1"]["conv"]["kernel"]).max()
    assert moved > 1e-3 and (found.params["stage1"]["norm"]["scale"] == plain.params["stage1"]["norm"]["scale"]).all()


def test_in_low_precision_the_network_computes_in_it(digits):
    """All that is frozen too, or products would be those of the wider type."""
    adapted = linft.lora(drawn.make(drawn.Normed()), rank=2, key=jax.random.key(0))
    narrow = jax.tree.map(lambda w: w.astype(jnp.bfloat16), adapted.params)
    x = adapted.preprocess(digits.x_train[:2]).astype(jnp.bfloat16)
    traced = jax.make_jaxpr(adapted.forward)(narrow, adapted.batch_stats, x)
    products = [e for e in traced.jaxpr.eqns if e.primitive.name in ("conv_general_dilated", "dot_general")]
    plain = drawn.make(drawn.Normed())
    expected = jax.make_jaxpr(plain.forward)(jax.tree.map(lambda w: w.astype(jnp.bfloat16), plain.params),
                                             plain.batch_stats, x)  # fmt: skip
    alike = [e for e in expected.jaxpr.eqns if e.primitive.name == "conv_general_dilated"]
    got = [e.outvars[0].aval.dtype for e in products if e.primitive.name == "conv_general_dilated"]
    assert got == [e.outvars[0].aval.dtype for e in alike]
