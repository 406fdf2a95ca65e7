"""A Tangent holds what prediction needs, survives its file, and shrinks to traces exactly where that is exact."""

import dataclasses

import jax
import numpy as np
import pytest

from linft import predict
from linft.core import trees
from linft.core.errors import LinftError
from linft.core.recipe import Recipe
from linft.predict.tangent import load, save, to_trace

RECIPE = Recipe(learning_rate=0.05, batch_size=4, steps=20)
DECAYED = RECIPE.replace(weight_decay=0.1, nesterov=False, rate_multipliers=(("conv", 0.3),))


def assert_same_curves(got, expected, tolerance=1e-12):
    for name in ("train_loss", "test_loss", "train_accuracy", "test_accuracy"):
        np.testing.assert_allclose(getattr(got, name), getattr(expected, name), atol=tolerance, err_msg=name)
    for group in expected.distance:
        # Of a distance the square is what rounding is small of.
        np.testing.assert_allclose(got.distance[group] ** 2, expected.distance[group] ** 2, atol=tolerance)


@pytest.mark.parametrize("split", [False, True])
def test_holds_logits_kernels_and_weights(tangent, split_tangent, explicit, split):
    tangent = split_tangent if split else tangent
    parts = {"train": slice(None, explicit.n), "test": slice(explicit.n, None)}
    j, train = explicit.jacobian, parts["train"]
    for part, rows in parts.items():
        np.testing.assert_allclose(getattr(tangent, f"logits_{part}"), explicit.f0[rows], atol=1e-12)
        np.testing.assert_array_equal(getattr(tangent, f"labels_{part}"), explicit.labels[rows])
    for group in tangent.groups:
        own = explicit.groups == trees.layer_group(group)
        if split:
            own &= explicit.is_vector == group.endswith(trees.VECTORS)
        assert own.any()
        for part, rows in parts.items():
            kernel = np.einsum("ncp,mdp->ncmd", j[rows][..., own], j[train][..., own])
            np.testing.assert_allclose(getattr(tangent, f"kernel_{part}").blocks[group], kernel, atol=1e-10)
            pushed = j[rows][..., own] @ explicit.w0[own]
            np.testing.assert_allclose(getattr(tangent, f"weights_{part}")[group], pushed, atol=1e-10)
        np.testing.assert_allclose(tangent.squared_norms[group], explicit.w0[own] @ explicit.w0[own], rtol=1e-12)


@pytest.mark.parametrize("outputs", ["full", "trace"])
def test_its_file_keeps_every_bit(tangent, tmp_path, outputs):
    tangent = tangent if outputs == "full" else to_trace(tangent)
    save(tmp_path / "tangent.safetensors", tangent)
    loaded = load(tmp_path / "tangent.safetensors")
    assert jax.tree.structure(loaded) == jax.tree.structure(tangent)  # which holds outputs, engine and order of groups
    assert loaded.groups == tangent.groups
    for got, expected in zip(jax.tree.leaves(loaded), jax.tree.leaves(tangent), strict=True):
        assert (got.dtype, got.shape) == (expected.dtype, expected.shape)
        np.testing.assert_array_equal(got, expected)
    assert [path.name for path in tmp_path.iterdir()] == ["tangent.safetensors"]


def test_refuses_files(tangent, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(LinftError, match=r"cannot write .* free some space or choose another directory"):
        save(tmp_path / "file" / "tangent.safetensors", tangent)
    (tmp_path / "broken.safetensors").write_bytes(b"not a tangent")
    with pytest.raises(LinftError, match=r"is not a readable tangent file .* delete it to compute it again"):
        load(tmp_path / "broken.safetensors")
    with pytest.raises(LinftError, match="is not a readable tangent file"):
        load(tmp_path / "missing.safetensors")


@pytest.mark.parametrize("recipe", [RECIPE.replace(loss="squared_error"), DECAYED])
def test_traces_are_exact_for_a_probe_of_two_classes(two_classes, recipe):
    assert_same_curves(predict.dual(to_trace(two_classes))(recipe), predict.dual(two_classes)(recipe))


@pytest.mark.parametrize("outputs", ["trace", "pseudo"])
def test_one_number_for_each_pair_is_exact_where_only_the_head_trains(model, task, tangent, outputs):
    small = predict.tangent(model, task, outputs=outputs, draws=2)
    assert all(block.shape == (10, 10) for block in small.kernel_train.blocks.values())
    recipe = RECIPE.replace(frozen_groups=("conv", "norm", "hidden"), weight_decay=0.1)
    assert_same_curves(predict.dual(small)(recipe), predict.dual(tangent)(recipe))


def test_traces_of_a_full_tangent_are_the_traces(model, task, tangent):
    direct, shrunk = predict.tangent(model, task, outputs="trace"), to_trace(tangent)
    for name in ("kernel_train", "kernel_test"):
        for group, block in getattr(direct, name).blocks.items():
            np.testing.assert_allclose(block, getattr(shrunk, name).blocks[group], atol=1e-10)


def test_groups_may_be_left_out(model, task, tangent):
    """The head alone is the whole network with everything else frozen."""
    head = predict.tangent(model, task, groups=["head"])
    assert head.groups == ("head",)
    frozen = RECIPE.replace(frozen_groups=("conv", "norm", "hidden"))
    assert_same_curves(predict.dual(head)(RECIPE), dataclasses.replace(predict.dual(tangent)(frozen), distance={}))
