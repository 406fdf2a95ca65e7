"""However the work is divided among passes, blocks and batches, the kernel is the same."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import linft
from linft.core.base import Model
from linft.core.errors import LinftError
from linft.ntk.empirical import empirical_ntk, labels_of, train_test_ntk, works
from linft.ntk.engine import How
from linft.ntk.layerwise import gram
from linft.ntk.tiled import schedule

CLASSES, N = 3, 7


@pytest.fixture(scope="module")
def whole(model, images):
    return train_test_ntk(model, images[:N], images[N : N + 5])


def room(model: Model, share: float) -> int:
    """A share of what the Jacobians of all training images take, batch included, as the work counts it."""
    return int(share * 4 * CLASSES * (N + 5 + 2) * sum(leaf.size for leaf in jax.tree.leaves(model.params)))


SMALLER = ((0.2, 1), (0.45, 3), (0.25, 2))
BUDGETS = [(0.6, None), *(pytest.param(*more, marks=pytest.mark.slow) for more in SMALLER)]


@pytest.mark.parametrize(("share", "tile"), BUDGETS)
def test_a_small_budget_changes_nothing(monkeypatch, model, images, whole, share, tile):
    """Layers in passes, and where one layer is too large its blocks computed again."""
    monkeypatch.setattr("linft.ntk.tiled.schedule.batch_bytes", lambda *_: 0)
    monkeypatch.setattr("linft.ntk.tiled.memory.budget", lambda limit: room(model, share) if limit else 2**40)
    train, _ = works(model, images[:N], images[N : N + 5], None, How(memory=1, tile=tile, batch_size=2))
    assert max(train.parts.values()) > 1 or share > 0.5
    streamed = train_test_ntk(model, images[:N], images[N : N + 5], memory=1, tile=tile, batch_size=2)
    for got, expected in zip(streamed, whole, strict=True):
        for group, block in expected.blocks.items():
            np.testing.assert_allclose(got.blocks[group], block, rtol=0, atol=2e-6 * np.linalg.norm(block))


def test_arrays_that_stay_on_an_accelerator_give_the_same(monkeypatch, model, images, whole):
    """They are put in place and multiplied there by other means than on CPU."""
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    for got, expected in zip(train_test_ntk(model, images[:N], images[N : N + 5], batch_size=3), whole, strict=True):
        for group, block in expected.blocks.items():
            np.testing.assert_allclose(got.blocks[group], block, rtol=0, atol=2e-6 * np.linalg.norm(block))


def test_tiles_are_computed_where_they_are_wanted_only(model, images, whole):
    train = works(model, images[:N], None, None, How(tile=3))[0]
    assert [s.stop for s in train.rows] == [3, 6, 7] and train.symmetric
    (tile,) = train.tiles(lambda group, part, i, j: (group, part, i, j) == ("stage1", 0, 2, 1))
    expected = whole[0].blocks["stage1"][6:, :, 3:6]
    assert tile[:4] == ("stage1", 0, 2, 1)
    np.testing.assert_allclose(tile.block, expected, rtol=0, atol=2e-6 * np.linalg.norm(expected))


def test_every_image_is_differentiated_once(monkeypatch, model, images):
    """Also where the test images are held against the training ones."""
    seen = []
    original = linft.ntk.layerwise.jacobians.rows

    def counted(*args):
        rows = original(*args)
        return lambda x: seen.append(len(x)) or rows(x)

    monkeypatch.setattr("linft.ntk.layerwise.jacobians.rows", counted)
    train_test_ntk(model, images[:6], images[6:10], tile=2, batch_size=2)
    assert sum(seen) == 10


@pytest.mark.parametrize(("precision", "error"), [("highest", 1e-6), ("bfloat16", 1e-2)])
def test_precisions(model, images, whole, caplog, precision, error):
    """Of Jacobians held with fewer digits: the difference is there, small, and said."""
    with caplog.at_level("INFO", "linft"):
        got = empirical_ntk(model, images[:N], precision=precision).total()
    exact = whole[0].total()
    difference = float(jnp.linalg.norm(got - exact) / jnp.linalg.norm(exact))
    assert difference < error and (difference > 1e-5) == (precision == "bfloat16")
    assert any("differs by" in message for message in caplog.messages) == (precision == "bfloat16")


def test_sums_in_float64_are_positive_to_their_rounding(x64, model, images):
    """Twice the same images: half of the eigenvalues are zero, and only float64 sums say so to 1e-13."""
    x = jnp.asarray(jnp.concatenate([images[:4], images[:4]]), jnp.float32)

    def lowest(sums) -> float:
        matrix = np.asarray(empirical_ntk(model, x, sums=sums).total(), np.float64).reshape(8 * CLASSES, -1)
        values = np.linalg.eigvalsh(matrix)
        return values[0] / values[-1]

    assert lowest("float64") > -1e-13
    assert abs(lowest("float32")) < 1e-5


def test_passes_hold_every_parameter_once_and_fit():
    rng = np.random.default_rng(0)
    units = [{f"layer{i}/kernel": f"g{i // 3}", f"layer{i}/bias": f"g{i // 3}"} for i in range(12)]
    size = {path: int(rng.integers(1, 100)) for unit in units for path in unit}
    for budget in (2000, 5000, 20000):
        passes = schedule.divide(units, size, images=20, least=10, budget=budget)
        assert sorted(p for chosen in passes for p in chosen.labels) == sorted(size)
        for chosen in passes:
            held = sum(size[p] for p in chosen.labels) * (20 if chosen.keeps else 10)
            assert held <= budget
    assert len(schedule.divide(units, size, images=20, least=10, budget=10**6)) == 1


def test_a_kernel_that_is_gone_on_with_keeps_its_passes(monkeypatch, model, images):
    """To the same digits with more memory, block by block with less, and refused where a block does not fit."""
    monkeypatch.setattr("linft.ntk.tiled.schedule.batch_bytes", lambda *_: 0)
    monkeypatch.setattr("linft.ntk.tiled.memory.budget", lambda limit: limit or 2**40)

    def tiles(how: How) -> tuple[tuple, list[np.ndarray]]:
        work = works(model, images[:N], None, None, how)[0]
        return work.passes, [tile.block for tile in work.tiles(lambda *_: True)]

    before, expected = tiles(How(memory=room(model, 0.6), tile=2, batch_size=2))
    assert len(before) > 1
    for memory in (None, room(model, 0.45)):
        passes_now, blocks = tiles(How(memory=memory, tile=2, batch_size=2, passes=before))
        assert passes_now == before
        for got, block in zip(blocks, expected, strict=True):
            np.testing.assert_array_equal(got, block)
    with pytest.raises(LinftError, match=r"two blocks and a batch, are .* use a smaller tile"):
        tiles(How(memory=room(model, 0.05), tile=2, batch_size=2, passes=before))


def test_what_is_held_leaves_room_for_the_kernel(monkeypatch, model, images):
    """In memory; a kernel that goes to disk tile by tile takes none."""
    monkeypatch.setattr("linft.ntk.tiled.schedule.batch_bytes", lambda *_: 0)
    monkeypatch.setattr("linft.ntk.tiled.memory.budget", lambda limit: limit or 2**40)
    how, kernel = How(memory=room(model, 1.0), batch_size=2), len(model.stages) * 4 * (N * CLASSES) ** 2
    assert len(works(model, images[:N], None, None, how)[0].passes) == 1
    assert len(works(model, images[:N], None, None, how, held=[(N, N)] * 40)[0].passes) > 1
    with pytest.raises(LinftError, match=r"the kernel needs about .*blocks 0"):
        works(model, images[:N], None, None, How(memory=kernel // 2), held=[(N, N)])


def test_refuses_a_layer_of_which_not_even_a_few_images_fit():
    with pytest.raises(LinftError, match=r"Jacobians of stem/conv for 10 images, .* are 9.3 GiB and 0.9 GiB"):
        schedule.divide([{"stem/conv/kernel": "stem"}], {"stem/conv/kernel": 10**9}, images=20, least=10, budget=10**9)


def test_groups_say_which_parameters(model):
    labels = labels_of(model, ["stage1", "head"])
    assert set(labels.values()) == {"stage1", "head"} and all(p.startswith(("stage1/", "head/")) for p in labels)


@pytest.mark.parametrize("full", [True, False])
@pytest.mark.parametrize("size", [5, gram.PIECE + 3, 2 * gram.PIECE * gram.TOGETHER + 24])
def test_long_products_on_an_accelerator_are_summed_piece_by_piece(full, size):
    x, y = (np.random.default_rng(size + n).normal(size=(n, 2, size)) for n in (3, 2))
    expected = np.einsum("nkp,mlp->nkml", x, y) if full else np.einsum("nkp,mkp->nm", x, y)
    got = gram.product(jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.float32), full, jnp.dtype("float32"))
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5 * size**0.5)
