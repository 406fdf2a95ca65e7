"""Predictions whose kernel moves: what the network near a path is exact for, its order, its anchors, and refusals."""

from functools import partial

import jax
import jax.numpy as jnp
import judges
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from replayed import ADAM, CE, DECAY, RATES, SE, assert_same, values, with_all_anchors

import linft
from linft import predict
from linft.core import trees
from linft.core.base import Kernel, Tangent
from linft.core.errors import LinftError
from linft.ntk.empirical import how_of
from linft.predict import replay
from linft.predict.anchors import Subject, at_start
from linft.predict.dual import of_logits
from linft.predict.path import Path, PathOutputs, about
from linft.predict.span import Coordinates, bundle_equal, items
from linft.training import optimizer

N, M, C, P = 6, 3, 2, 20
GROUPS = {"low": slice(0, 12), "high": slice(12, P)}


def bent(ends: tuple[float, ...]) -> tuple[judges.Network, judges.Explicit, np.ndarray, Path, Tangent]:
    """f0 + J v + ⟨v, d⟩/‖d‖² B v, v = w − w0, of degree two and bent along d; and the path from w0 to ends times d."""
    rng = np.random.default_rng(0)
    w0, jacobian, bend = rng.normal(size=P), rng.normal(size=(N + M, C, P)), rng.normal(size=(N + M, C, P))
    f0, labels, gamma = rng.normal(size=(N + M, C)), np.arange(N + M) % C, -0.05
    alpha = 0.02 * (np.eye(C)[labels[:N]] - 0.5)  # the way that training goes
    d = np.einsum("nc,ncp->p", alpha, jacobian[:N]) + gamma * w0

    def progress(w: np.ndarray) -> float:
        return (w - w0) @ d / (d @ d)

    def derivative(w: np.ndarray) -> np.ndarray:
        return jacobian + progress(w) * bend + (bend @ (w - w0))[..., None] * d / (d @ d)

    network = judges.Network(lambda w: f0 + jacobian @ (w - w0) + progress(w) * (bend @ (w - w0)), derivative)
    groups = np.concatenate([np.repeat(g, len(range(P)[part])) for g, part in GROUPS.items()])
    explicit = judges.Explicit(f0, jacobian, w0, groups, np.zeros(P, bool), labels, N)
    places = [w0 + end * d for end in (0.0, *ends)]
    rows = [derivative(w) for w in places]

    def tangent(count: int) -> Tangent:
        train, test = (np.concatenate([r[part] for r in rows[:count]]) for part in (slice(N), slice(N, None)))

        def kernel(left: np.ndarray) -> Kernel:
            blocks = {g: np.einsum("icp,jdp->icjd", left[..., part], train[..., part]) for g, part in GROUPS.items()}
            return Kernel(jax.tree.map(jnp.asarray, blocks), "full")

        return Tangent(
            logits_train=jnp.tile(f0[:N], (count, 1)),
            logits_test=jnp.tile(f0[N:], (count, 1)),
            labels_train=jnp.tile(labels[:N], count),
            labels_test=jnp.tile(labels[N:], count),
            kernel_train=kernel(train),
            kernel_test=kernel(test),
            weights_train={g: jnp.asarray(train[..., part] @ w0[part]) for g, part in GROUPS.items()},
            weights_test={g: jnp.asarray(test[..., part] @ w0[part]) for g, part in GROUPS.items()},
            squared_norms={g: jnp.asarray(w0[part] @ w0[part]) for g, part in GROUPS.items()},
            mixing={g: jnp.eye(C) / C for g in GROUPS},
        )

    count = len(places)
    steps = np.diff((0.0, *ends))
    moves = Coordinates(
        jnp.asarray([np.pad(step * alpha, ((0, (count - 1) * N), (0, 0))) for step in steps]),
        jnp.asarray(gamma * steps)[:, None],
    )

    def outputs(part: slice) -> PathOutputs:
        at = np.stack([network.logits(w)[part] for w in places])
        return PathOutputs(
            *map(jnp.asarray, (at - at[0], *(
                np.stack([rows[k + late][part] @ (step * d) for k, step in enumerate(steps)]) for late in (0, 1)
            )))
        )  # fmt: skip

    path = Path(tangent(count), dict.fromkeys(GROUPS, moves), outputs(slice(N)), outputs(slice(N, None)), None)
    return network, explicit, d, path, tangent(1)


BENT = CE.replace(learning_rate=0.01, steps=40, **DECAY, rate_multipliers=(("low", 0.5),))


OTHER = BENT.replace(loss="squared_error", convention="decoupled")


@pytest.mark.parametrize(
    ("ends", "recipe"),
    [
        ((40.0,), BENT),
        ((5.0, 40.0), OTHER),
        pytest.param((40.0,), OTHER, marks=pytest.mark.slow),
        pytest.param((5.0, 40.0), BENT, marks=pytest.mark.slow),
    ],
)
def test_a_network_bent_along_its_path_is_met_exactly(ends, recipe):
    network, explicit, d, path, start = bent(ends)
    groups, settings = bundle_equal([optimizer.settings(recipe, tuple(GROUPS), N)])
    (found,) = replay.replay(network_of, items(groups), (path, start), settings, [recipe], recipe.batches(N), 4)
    expected = judges.sgd(network, explicit, recipe, found.trajectory.steps)
    for name in ("train_loss", "test_loss"):
        np.testing.assert_allclose(getattr(found.trajectory, name), expected[name], rtol=1e-9)
    for g in GROUPS:
        np.testing.assert_allclose(found.trajectory.distance[g], expected[f"distance {g}"], rtol=1e-7, atol=1e-12)
        np.testing.assert_allclose(found.trajectory.norm[g], expected[f"norm {g}"], rtol=1e-9)
    way = np.array([(w - explicit.w0) @ d / (d @ d) for w in judges.weights(network, explicit, recipe)])
    assert way.min() == 0 and 0.5 < way.max() < ends[-1], "the run goes some way along the line"


def network_of(names, arrays):
    return of_logits(about(names, arrays[0]), arrays[1])


def test_with_one_anchor_it_is_dual(model, task, tangent):
    recipe = CE.replace(**DECAY)
    found = predict.moving(model, task, anchors=1)(recipe)
    assert_same(values(found), values(predict.dual(tangent)(recipe)), 1e-12)


@pytest.mark.parametrize("at", ["network", "features"])
def test_with_one_anchor_and_adam_it_is_explicit(model, task, at):
    recipe = ADAM["AdamW, all at once"]
    found = predict.moving(model, task, at=at, rank=2, anchors=1)(recipe)
    assert_same(values(found), values(predict.explicit(model, task, at=at, rank=2)(recipe)), 1e-12)


def test_with_one_anchor_it_is_feature_dual(model, task):
    found = predict.moving(model, task, at="features", rank=2, anchors=1)(SE)
    expected = predict.feature_dual(model, task, outputs="low-rank", rank=2)(SE)
    assert_same(values(found), values(expected), 1e-12)


ALL_AT_ONCE = CE.replace(**RATES, **DECAY, decay_vectors=False, convention="decoupled", clip_norm=0.2)


@pytest.mark.parametrize(
    "recipe",
    [CE, ADAM["AdamW, all at once"], pytest.param(ALL_AT_ONCE, marks=pytest.mark.slow)],
    ids=["plain", "AdamW", "all at once"],
)
@pytest.mark.parametrize("at", ["network", "features"])
def test_with_three_anchors_it_is_the_training_of_what_is_near_the_path(model, task, explicit, at, recipe):
    choose = judges.nearest if recipe.optimizer == "adam" else judges.in_turn
    whole = partial(judges.along, judges.as_it_is(model, task), choose=choose)
    near = judges.moving(
        {"network": whole, "features": judges.under_head(model, task, choose)}[at], explicit, recipe, 3
    )
    found = with_all_anchors(predict.moving(model, task, at=at, rank=5, anchors=3, record_every=10))(recipe)
    assert_same(values(found), judges.sgd(near, explicit, recipe, found.steps))


def test_it_tends_to_the_real_run_one_order_faster_than_dual(model, task, explicit):
    network = judges.as_it_is(model, task)

    def errors(rate: float) -> list[float]:
        recipe = SE.replace(learning_rate=rate, steps=20)
        real = judges.sgd(network, explicit, recipe, np.array([20]))["train_loss"]
        runs = predict.dual(model, task), with_all_anchors(predict.moving(model, task, anchors=2))
        return [abs(run(recipe).train_loss[-1] - real[-1]) for run in runs]

    dual, moving = np.array(errors(1e-4)) / errors(5e-5)
    assert dual == pytest.approx(4, rel=0.15)  # the error of the outputs is of second order in the rate
    assert moving == pytest.approx(8, rel=0.25)  # and of third


def subject_of(model, task) -> Subject:
    labels = trees.labels(model.params, model.stages)
    images = model.preprocess(task.x_train), model.preprocess(task.x_test)
    targets = jnp.asarray(task.y_train), jnp.asarray(task.y_test)
    return Subject(
        lambda params: model.replace(params=params), None, model.params, images, targets, labels,
        tuple(model.stages), model.num_classes, how_of(batch_size=4),
    )  # fmt: skip


def test_anchors_are_the_jacobians_where_they_stand(model, task):
    rng = np.random.default_rng(3)
    names = tuple((g, ((g, 1.0),)) for g in model.stages)
    n, subject = len(task.y_train), subject_of(model, task)
    built, labels, x_train = at_start(subject, 3), subject.labels, subject.images[0]
    places = [model.params]
    for count in (1, 2):
        at = {
            g: Coordinates(rng.normal(size=(count * n, 3)) / 50, np.array([1 + rng.normal() / 20]))
            for g in model.stages
        }
        built = built.and_at(at, names)
        there = built.anchors[-1].model.params
        gamma = {g: x.gamma[0] for g, x in at.items()}
        expected = jax.tree.map(lambda group, w, gamma=gamma: gamma[group] * w, labels, model.params)
        for place, part in zip(places, range(count), strict=True):
            _, pull = jax.vjp(lambda p: model.apply(p, x_train), place)
            for g in model.stages:
                (back,) = pull(jnp.asarray(at[g].alpha[part * n : (part + 1) * n]))
                expected = jax.tree.map(jnp.add, expected, trees.restrict(back, labels, g))
        np.testing.assert_allclose(ravel_pytree(there)[0], ravel_pytree(expected)[0], rtol=1e-9)
        places.append(there)
    path = built.path()
    explicit = [judges.explicit(model.replace(params=place), task) for place in places]
    for i, row in enumerate(explicit):
        for j, column in enumerate(explicit):
            for g, block in path.tangent.kernel_train.blocks.items():
                own = row.groups == g
                expected = np.einsum("icp,jdp->icjd", row.jacobian[:n][..., own], column.jacobian[:n][..., own])
                part = np.asarray(block)[i * n : (i + 1) * n, :, j * n : (j + 1) * n]
                np.testing.assert_allclose(part, expected, rtol=1e-9, atol=1e-12)
                m = len(task.y_test)
                expected = np.einsum("icp,jdp->icjd", row.jacobian[n:][..., own], column.jacobian[:n][..., own])
                part = np.asarray(path.tangent.kernel_test.blocks[g])[i * m : (i + 1) * m, :, j * n : (j + 1) * n]
                np.testing.assert_allclose(part, expected, rtol=1e-9, atol=1e-12)
    for k in (0, 1):
        d = explicit[k + 1].w0 - explicit[k].w0
        np.testing.assert_allclose(path.train.leaving[k], explicit[k].jacobian[:n] @ d, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(path.test.arriving[k], explicit[k + 1].jacobian[n:] @ d, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(path.train.at[k + 1], explicit[k + 1].f0[:n] - explicit[0].f0[:n], rtol=1e-9)


def test_what_it_went_through_is_told(model, task):
    run = predict.moving(model, task, anchors=3, record_every=1)
    *_, before, found = run.stages(CE)
    assert found.steps[0] == 0 < found.steps[1] < found.steps[2] <= 50
    far = np.sqrt(sum(d**2 for d in before.trajectory.distance.values()))
    assert far[found.steps[2]] >= min(far[-1], 1.5 * far[found.steps[1]])
    np.testing.assert_allclose(found.evidence.curves[1], before.trajectory.train_loss, rtol=1e-6)
    assert found.trajectory.note == ""
    there = [model.replace(params=anchor.model.params) for anchor in found.way.built[-1].anchors]
    whole = CE.replace(batch_size=None)
    edges = [predict.stability(predict.tangent(at, task), whole) for at in there]
    np.testing.assert_allclose(found.edges, [edge.h / edge.limit for edge in edges], rtol=1e-6)
    assert found.edges[2] != pytest.approx(found.edges[0], rel=0.1)
    assert found.noted().note.startswith(
        f"with Jacobians at steps {', '.join(map(str, found.steps))} of the predicted path, "
    )
    kernels = [tangent.kernel_train.total() for tangent in found.tangents]
    assert len(kernels) == 3 and not np.allclose(kernels[0], kernels[2], rtol=0.1)


def test_of_all_it_takes_the_one_that_is_surest_of_itself(model, task):
    run = predict.moving(model, task, anchors=3)
    for recipe in (CE, SE.replace(learning_rate=0.15, steps=12)):
        stages = [*run.stages(recipe)]
        told = [stage.evidence.error(len(stage.evidence.predicted)) for stage in stages]
        assert run.follow(recipe).steps == stages[int(np.argmin(told))].steps
        first = predict.moving(model, task, anchors=3, error=1.001 * told[0]).follow(recipe)
        assert first.steps == (0,)


def test_of_adam_the_start_alone_tells_nothing(model, task):
    """Of adapters A has no gradient at the start, and Adam moves it as far as B in the second step already."""
    adapted = linft.lora(model, rank=2, layers=("conv", "hidden"), key=jax.random.key(0))
    recipe = linft.Recipe(optimizer="adam", learning_rate=0.02, batch_size=5, steps=8)
    first, second = list(predict.moving(adapted, task, anchors=2, record_every=1).stages(recipe))
    assert first.trajectory.certificate.error is None and second.trajectory.certificate.error is not None
    real = linft.finetune(adapted, task, record_every=1)(recipe).train_loss
    errors = [np.abs(found.trajectory.train_loss - real).mean() for found in (first, second)]
    assert errors[1] < 0.5 * errors[0]
    assert predict.moving(adapted, task, anchors=2).follow(recipe).steps == second.steps


def test_recipes_share_a_path_where_it_says_that_it_holds(model, task):
    run = predict.moving(model, task, anchors=3)
    recipes = [CE, CE.replace(learning_rate=0.5 * CE.learning_rate)]
    found = run.many(recipes)
    assert [trajectory.certificate.shared for trajectory in found] == [False, True]
    real = linft.finetune(model, task)(recipes[1]).train_loss
    assert 0 < np.abs(found[1].train_loss - run(recipes[1]).train_loss).mean() < 0.2 * real.mean()


def test_a_path_is_not_shared_by_what_leaves_it(model, task):
    run, leaves = predict.moving(model, task, anchors=2, error=1e-6), CE.replace(seed=9, weight_decay=1.0)
    way = run.follow(CE).way
    other = run.along(way, leaves)
    assert other is not None and not other.trajectory.certificate.holds
    own, again = run.many([CE, leaves])
    assert not again.certificate.shared
    same = run.along(way, CE)
    np.testing.assert_allclose(same.trajectory.train_loss, own.train_loss, rtol=1e-9)
    assert run.along(way, CE.replace(**RATES)) is None, "whose layers are told apart"


def test_a_rate_at_which_the_linear_prediction_diverges_still_has_a_path(model, task):
    recipe = SE.replace(learning_rate=0.5, steps=20)
    assert predict.dual(model, task, record_every=1)(recipe).diverged_at is not None
    *_, found = predict.moving(model, task, anchors=2, record_every=1).stages(recipe)
    assert np.isfinite(found.trajectory.train_loss).all()


def test_without_a_step_there_is_no_path(model, task):
    found = predict.moving(model, task).follow(CE.replace(steps=0))
    assert found.steps == (0,) and found.trajectory.certificate.error == 0


def test_group_rates_move_as_the_judge_says_with_a_trace(model, task):
    """Of the head alone a trace is exact, and its Jacobian does not move."""
    only_head = SE.replace(frozen_groups=("conv", "norm", "hidden"), **DECAY, **RATES)
    expected = predict.dual(model, task, outputs="trace")(only_head)
    found = with_all_anchors(predict.moving(model, task, outputs="trace", anchors=2))(only_head)
    np.testing.assert_allclose(found.train_loss, expected.train_loss, rtol=1e-9)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"anchors": 0}, "anchors is 0; it must be 1 or more"),
        ({"error": 0.0}, "error is 0.0; give a number above 0"),
        ({"error": float("nan")}, "error is nan; give a number above 0"),
        ({"by": "Jacobian", "outputs": "trace"}, 'outputs must be "full" with by="Jacobian"'),
        ({"at": "features", "outputs": "trace"}, 'outputs must be "full" with at="features"'),
    ],
)
def test_it_refuses_other_options(model, task, options, message):
    with pytest.raises(LinftError, match=message):
        predict.moving(model, task, **options)


def test_it_says_what_memory_is_missing(model, task, monkeypatch):
    monkeypatch.setattr("linft.ntk.tiled.memory.free_bytes", lambda: 1000)
    with pytest.raises(LinftError, match=r"GiB may be used; use fewer anchors or images, or outputs=\"trace\""):
        predict.moving(model, task)(CE)


@pytest.mark.slow
def test_it_is_nearer_to_the_training_of_real_digits(model, task):
    recipe = CE.replace(learning_rate=0.02)
    real = linft.finetune(model, task)(recipe).train_loss
    runs = predict.dual(model, task), predict.moving(model, task), predict.moving(model, task, at="features", rank=5)
    linear, network, features = (np.abs(run(recipe).train_loss - real).mean() / real.mean() for run in runs)
    assert real[-1] < 0.03 * real[0]
    assert network < linear / 4 and features < linear / 2
