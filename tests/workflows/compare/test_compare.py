"""Compare: its runs, what it keeps on disk, and going on after an interruption."""

import json
import re
import shutil
from dataclasses import replace

import drawn
import jax
import numpy as np
import pytest

import linft
from linft import report
from linft.workflows.compare import compare as comparison
from linft.workflows.compare import drift
from linft.workflows.compare.compare import RUNS, compare
from linft.workflows.compare.store import Store

RECIPE = linft.Recipe(learning_rate=1e-3, batch_size=None, steps=3, loss="squared_error")
MOVING = ["moving", "moving_features"]
STILL = [name for name in RUNS if name not in MOVING]


@pytest.fixture(scope="module")
def setting():
    task = linft.load_task("digits").subset(20, 10)
    return drawn.make(drawn.Normed()), task


@pytest.fixture(scope="module")
def finished(setting, tmp_path_factory):
    """A comparison with every run whose kernel stays, and its directory."""
    directory = tmp_path_factory.mktemp("comparison")
    return compare(*setting, RECIPE, runs=STILL, output=directory), directory


def test_every_run_is_made_and_starts_from_the_model(finished):
    found, _ = finished
    assert list(found.runs) == STILL
    for run in found.runs.values():
        assert run.train_loss[0] == pytest.approx(found.runs["finetuned"].train_loss[0], rel=1e-5)


@pytest.mark.slow
def test_those_whose_kernel_moves_are_made_where_all_are_asked_for(finished, setting, tmp_path):
    shutil.copytree(finished[1], tmp_path, dirs_exist_ok=True)
    found = compare(*setting, RECIPE, runs="all", output=tmp_path)
    assert list(found.runs) == list(RUNS)
    for name in MOVING:
        assert found.runs[name].train_loss[0] == pytest.approx(found.runs["finetuned"].train_loss[0], rel=1e-5)


def test_by_default_what_takes_long_is_left_out(finished, setting, tmp_path):
    shutil.copytree(finished[1], tmp_path, dirs_exist_ok=True)
    found = compare(*setting, RECIPE, output=tmp_path)
    left_out = ["moving", "moving_features", "feature_linearized", "linearized", "explicit"]
    assert list(found.runs) == [name for name in RUNS if name not in left_out]
    assert list(found.result.skipped) == left_out
    assert all("--runs all" in reason for reason in found.result.skipped.values())


def test_adam_is_followed_by_the_jacobian_in_place_of_the_kernel(setting, tmp_path):
    recipe = RECIPE.replace(optimizer="adam", convention="decoupled", weight_decay=0.1)
    found = compare(*setting, recipe, runs=("finetuned", "linearized", "explicit", "dual"), output=tmp_path)
    np.testing.assert_allclose(found.runs["explicit"].train_loss, found.runs["linearized"].train_loss, rtol=1e-5)
    assert found.result.stability is None
    assert found.runs["explicit"].note == "" and found.runs["dual"].note == "dropped: optimizer=adam"
    links = [(link.start, link.end) for link in found.result.attribution.links]
    assert links == [("finetuned", "linearized"), ("linearized", "explicit")], "the kernel's are of another optimizer"
    page = report.write(found.result, tmp_path).read_text()
    assert "Predicted from the Jacobian" in page and "Largest stable learning rate" not in page
    chosen, skipped = comparison._choose(*setting, recipe, None, "full")
    assert {"finetuned", "explicit"} <= {*chosen} and "dual" not in chosen
    assert skipped["dual"] == "Adam is not linear in the gradient; see --runs all"


def test_where_there_is_no_jacobian_a_comparison_with_adam_says_so(setting, monkeypatch):
    monkeypatch.setattr("linft.ntk.tiled.memory.free_bytes", lambda: 1000)
    chosen, skipped = comparison._choose(*setting, RECIPE.replace(optimizer="adam"), None, "full")
    assert "explicit" not in chosen and "use fewer images, or train the network linearized" in skipped["explicit"]


def test_without_neural_tangents_gradient_flow_is_left_out(setting, without_neural_tangents):
    chosen, skipped = comparison._choose(*setting, RECIPE, None, "full")
    assert "gradient_flow" not in chosen and {"dual", "flow_trace"} <= {*chosen}
    how = "neural-tangents is not installed: pip install --no-deps neural-tangents frozendict"
    assert skipped["gradient_flow"] == how
    assert "gradient_flow" in comparison._choose(*setting, RECIPE, None, "trace")[0]  # needs no package
    with pytest.raises(linft.LinftError, match=f"^gradient_flow cannot be run: {how}; leave it out of runs$"):
        compare(*setting, RECIPE, runs=("finetuned", "gradient_flow"))


def test_exact_runs_agree(finished):
    found, _ = finished
    for name in ("explicit", "dual", "spectral"):
        np.testing.assert_allclose(found.runs[name].train_loss, found.runs["linearized"].train_loss, rtol=1e-4)
    for group, moved in found.runs["linearized"].distance.items():
        np.testing.assert_allclose(found.runs["dual"].distance[group], moved, rtol=1e-3, atol=1e-6)


def test_the_result_has_the_documented_parts(finished):
    found, directory = finished
    parts = (
        "schema model task recipe reference runs skipped agreement attribution kernel stability versions seconds seeds "
        "draws"
    )
    assert list(json.loads((directory / "result.json").read_text())) == parts.split()
    assert report.read(directory / "result.json") == found.result
    assert found.result.reference == "finetuned"
    assert set(found.result.agreement) == {*STILL} - {"finetuned"}
    assert found.result.kernel.drift.images == 20
    assert sum(found.result.model.layer_groups.values()) == found.result.model.parameters
    first, last = (found.runs[name].train_loss[-1] for name in ("finetuned_train_bn", "flow_trace"))
    assert found.result.attribution.total.train_loss == pytest.approx(last - first)


def test_the_kernel_after_fine_tuning_is_computed_by_the_programs_of_the_one_before(setting, caplog, monkeypatch):
    model, task = setting
    monkeypatch.setattr(drift, "IMAGES", 16)

    def compiled() -> set[str]:
        names = set(re.findall(r"Compiling (?:jit\()?(rows|pull)", caplog.text))
        caplog.clear()
        return names

    with jax.log_compiles():
        tangent = linft.predict.tangent(model, task, batch_size=8)
        assert "rows" in compiled()  # in three batches of 7
        start, traces = drift.traced(tangent, task, model.stages, 8)
        again = traces(model)
        assert not compiled()
    found = drift.drift({0: start, 3: again}, task.y_train[:14])
    assert found.images == 14
    assert found.at[1].with_start.whole == pytest.approx(1, abs=1e-5)
    assert found.at[1].norm_ratio == pytest.approx(1, abs=1e-5)


def test_a_second_call_computes_nothing(finished, setting, monkeypatch):
    found, directory = finished
    for name in RUNS:
        monkeypatch.setitem(comparison.RUNS, name, None)
    again = compare(*setting, RECIPE, runs=STILL, output=directory)
    assert again.result.runs == found.result.runs
    assert again.result.kernel.drift == found.result.kernel.drift


def test_an_interrupted_call_goes_on_from_what_is_finished(setting, tmp_path, monkeypatch):
    names = ("finetuned", "dual", "dual_trace")
    made = []

    def noted(name, make):
        def run(setting):
            made.append(name)
            return make(setting)

        return run

    def cut(setting):
        raise KeyboardInterrupt

    originals = {name: RUNS[name] for name in names}
    for name in ("dual", "dual_trace"):
        monkeypatch.setitem(comparison.RUNS, name, noted(name, originals[name]))
    monkeypatch.setitem(comparison.RUNS, "finetuned", cut)
    with pytest.raises(KeyboardInterrupt):
        compare(*setting, RECIPE, runs=names, output=tmp_path)
    assert made == ["dual", "dual_trace"]  # predictions come before the truth
    monkeypatch.setitem(comparison.RUNS, "finetuned", noted("finetuned", originals["finetuned"]))
    monkeypatch.setattr(comparison.predict, "tangent", cut)  # the kernel is on disk
    assert list(compare(*setting, RECIPE, runs=names, output=tmp_path).runs) == list(names)
    assert made == ["dual", "dual_trace", "finetuned"]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda model, task, recipe: (model, task, recipe.replace(momentum=0.5)), "recipe"),
        (lambda model, task, recipe: (model, task.subset(19), recipe), "task"),
        (lambda model, task, recipe: (model.with_head(10, jax.random.key(5)), task, recipe), "model"),
    ],
)
def test_a_directory_of_another_comparison_is_refused(finished, setting, change, named):
    _, directory = finished
    with pytest.raises(linft.LinftError, match=f"another {named}"):
        compare(*change(*setting, RECIPE), output=directory)


def test_the_command_and_the_kernel_are_part_of_what_a_directory_holds(finished, setting, tmp_path):
    _, directory = finished
    for outputs, engine, named in (("trace", "auto", "outputs"), ("full", "layerwise", "engine")):
        with pytest.raises(linft.LinftError, match=f"with another {named}"):
            compare(*setting, RECIPE, output=directory, outputs=outputs, engine=engine)
    of_predict = "predict", *setting, RECIPE, {"record_every": None}
    with pytest.raises(
        linft.LinftError, match=r'command \("compare", now "predict"\), outputs \("full", now null\), engine'
    ):
        Store.open(directory, *of_predict)
    Store.open(tmp_path, *of_predict)
    with pytest.raises(linft.LinftError, match=r'command \("predict", now "compare"\), outputs'):
        compare(*setting, RECIPE, output=tmp_path)


def test_recipes_that_a_kernel_cannot_follow_are_predicted_by_the_nearest(setting):
    recipe = RECIPE.replace(batch_norm="train", augmentation="flip")
    found = compare(*setting, recipe, runs=("finetuned_train_bn", "dual"))
    assert found.result.reference == "finetuned_train_bn"
    assert found.result.runs["dual"].note == "dropped: augmentation=flip"


def test_augmentation_is_followed_by_draws_where_that_is_asked_for(setting, tmp_path):
    """With as many draws as epochs the prediction is the training of the linearized network; of other kinds none."""
    model, task = setting
    recipe = RECIPE.replace(augmentation="flip", mixup=0.2, batch_size=len(task.y_train) // 2, steps=4)
    runs = ("finetuned", "linearized", "dual", "explicit", "dual_trace")
    found = compare(model, task, recipe, runs=runs, draws=2, output=tmp_path)
    for name in ("dual", "explicit"):
        np.testing.assert_allclose(found.runs[name].train_loss, found.runs["linearized"].train_loss, rtol=1e-4)
        assert found.runs[name].note == "augmentation=flip, mixup=0.2 by 2 draws of every image"
    assert found.runs["dual_trace"].note == "dropped: augmentation=flip, mixup=0.2"
    assert found.result.draws == 2 and report.read(tmp_path / "result.json") == found.result
    with pytest.raises(linft.LinftError, match=r"draws \(2, now null\)"):
        compare(model, task, recipe, runs=runs, output=tmp_path)
    with pytest.raises(linft.LinftError, match="draws are for a recipe with augmentation or mixup; leave them out"):
        compare(model, task, RECIPE, draws=2)


BY_ORDER = linft.Recipe(learning_rate=0.05, batch_size=5, steps=6)


def test_a_prediction_is_held_against_runs_of_other_orders(setting, tmp_path):
    """Of a network that is linear the prediction is right for each of them."""
    model, task = setting
    linear = linft.linearize(model)
    runs = ("finetuned", "dual", "dual_trace")
    compare(linear, task, BY_ORDER, runs=runs, output=tmp_path)  # which is gone on from
    found = compare(linear, task, BY_ORDER, runs=runs, output=tmp_path, seeds=3)
    seeds = found.result.seeds
    assert {*seeds.runs} == {f"{name}-seed-{seed}" for name in ("finetuned", "dual") for seed in (1, 2)}
    for seed in (1, 2):
        alone = linft.finetune(linear, task)(BY_ORDER.replace(seed=seed))
        np.testing.assert_allclose(seeds.runs[f"finetuned-seed-{seed}"].train_loss, alone.train_loss, rtol=1e-5)
    assert seeds.real.seeds == [0, 1, 2] and list(seeds.predicted) == list(seeds.agreement) == ["dual"]
    assert seeds.real.train_loss.lowest[-1] < 0.999 * seeds.real.train_loss.highest[-1]
    assert seeds.agreement["dual"].inside == 1.0 and seeds.agreement["dual"].error_over_width < 1e-2
    assert {path.stem for path in (tmp_path / "runs").iterdir()} == {*runs, *seeds.runs}
    assert report.read(tmp_path / "result.json") == found.result


def test_seeds_may_be_of_the_head_too(setting, tmp_path):
    """Of a network that is linear the prediction is right under each head, though all images are in one batch."""
    model, task = setting
    heads = {
        seed: linft.linearize(model.with_head(task.num_classes, jax.random.key(seed), scale=0.5)) for seed in (0, 1)
    }
    recipe, runs = BY_ORDER.replace(batch_size=None, steps=3), ("finetuned", "dual")
    compare(heads[0], task, recipe, runs=runs, output=tmp_path)  # which is gone on from
    found = compare(heads[0], task, recipe, runs=runs, output=tmp_path, seeds=2, heads=heads.__getitem__).result
    assert found.seeds is not None and found.seeds.heads
    for kind in runs:
        own, other = found.runs[kind], found.seeds.runs[f"{kind}-seed-1"]
        assert abs(own.train_loss[0] - other.train_loss[0]) > 1e-3
    alone = linft.finetune(heads[1], task)(recipe.replace(seed=1))
    for kind in runs:
        np.testing.assert_allclose(found.seeds.runs[f"{kind}-seed-1"].train_loss, alone.train_loss, rtol=1e-4)
    assert found.seeds.agreement["dual"].inside == 1.0
    assert {path.stem for path in (tmp_path / "runs").iterdir()} == {*runs, *(f"{kind}-heads-seed-1" for kind in runs)}
    with pytest.raises(linft.LinftError, match="seeds make no difference to a full batch"):
        compare(heads[0], task, recipe, runs=runs, seeds=2)


def test_seeds_of_one_order_in_training_mode_are_refused_before_anything_is_made(setting, tmp_path):
    whole = BY_ORDER.replace(batch_size=None, batch_norm="train")
    with pytest.raises(linft.LinftError, match="seeds make no difference to a full batch"):
        compare(*setting, whole, seeds=2, output=tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_other_orders_are_predicted_along_one_path(setting):
    found = compare(*setting, BY_ORDER, runs=("finetuned", "moving"), seeds=2).result
    assert not found.runs["moving"].certificate.shared and found.seeds.runs["moving-seed-1"].certificate.shared
    assert found.runs["moving"].train_loss[-1] != found.seeds.runs["moving-seed-1"].train_loss[-1]


def test_a_recipe_in_training_mode_is_predicted_in_it(setting):
    """Real and predicted curves are in one measure, and begin as one."""
    found = compare(*setting, RECIPE.replace(batch_norm="train"))
    assert found.tangent.batch_norm == "train"
    assert "finetuned" in found.result.skipped
    assert all("--runs all" in reason for reason in found.result.skipped.values()), "theory is made too"
    np.testing.assert_allclose(found.runs["spectral"].train_loss, found.runs["dual"].train_loss, rtol=1e-4)
    real, predicted = (found.result.runs[name] for name in ("finetuned_train_bn", "dual"))
    assert predicted.train_loss[0] == pytest.approx(real.train_loss[0], rel=1e-4)
    assert "statistics re-estimated" in real.note and real.reestimated is None
    assert real.running.steps == real.steps and real.running.test_loss[-1] != real.test_loss[-1]
    first = found.result.attribution.links[0]
    assert (first.start, first.end) == ("finetuned_train_bn", "dual")
    assert first.cause == "features to first order, network to first order"


@pytest.mark.parametrize(
    ("runs", "message"),
    [
        (("finetuned", "duel"), "no run duel"),
        (("dual",), "needs reality"),
        (("finetuned", "spectral"), "spectral cannot be run: the loss is not squared error"),
    ],
)
def test_bad_choices_of_runs_are_refused(setting, runs, message):
    with pytest.raises(linft.LinftError, match=message):
        compare(*setting, RECIPE.replace(loss="cross_entropy"), runs=runs)


def test_a_full_disk_is_told_in_one_line(setting, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("linft.runtime.json_files.Path.write_bytes", full)
    with pytest.raises(linft.LinftError, match=r"No space left on device.*free some space"):
        compare(*setting, RECIPE, runs=("finetuned", "dual"), output=tmp_path)


@pytest.mark.slow
def test_a_diverging_prediction_is_marked_and_ends_the_chain(setting):
    recipe = replace(RECIPE, learning_rate=1e6, steps=6)
    found = compare(*setting, recipe, runs=("finetuned", "dual", "dual_trace"), record_every=1)
    assert found.runs["dual"].diverged_at is not None
    assert not found.result.stability.stable
    assert found.result.attribution.links == []
