"""Weights on disk come back bit for bit, public ones reach their stated accuracy, wrong files are refused."""

import pickle
import shutil

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from linft import load_model, load_task, save_model
from linft.core.errors import LinftError
from linft.core.preprocessing import Preprocessing
from linft.models import create, from_flax

PUBLIC = [("resnet20", 81.10), pytest.param("resnet32", 82.80, marks=pytest.mark.slow)]


@pytest.mark.parametrize(("name", "accuracy"), PUBLIC)
def test_public_weights_reach_their_accuracy(shared, name, accuracy):
    model = load_model(shared / "weights" / f"{name}_cifar10_akamaster.safetensors")
    task = load_task(f"npz:{shared / 'data' / 'cifar10_32.npz'}")
    assert model.source["class_names"] == task.class_names
    apply = jax.jit(lambda images: model.apply(model.params, model.preprocessing.normalize(images)))
    logits = np.concatenate([apply(task.x_test[i : i + 500]) for i in range(0, 4000, 500)])
    assert 100 * np.mean(logits.argmax(1) == task.y_test) == pytest.approx(accuracy, abs=0.1)


@pytest.fixture(scope="module")
def model():
    """A small network with a new head and statistics away from their initial values."""
    preprocessing = Preprocessing((16, 16, 3), (0.1, 0.2, 0.3), (0.4, 0.5, 0.6), 0.875, "bicubic")
    model = create("cifar_resnet8", 10, jax.random.key(0), preprocessing, width=4, shortcut="b")
    rng = np.random.default_rng(0)
    statistics = jax.tree.map(lambda s: s + jnp.asarray(rng.uniform(size=s.shape), s.dtype), model.batch_stats)
    model = model.replace(name="small", batch_stats=statistics, source={"data": "none", "accuracy": 0.1})
    return model.with_head(3, jax.random.key(1), scale=0.3)


def test_saved_and_loaded_is_the_same_bit_for_bit(model, tmp_path):
    path = tmp_path / "deep" / "small.safetensors"
    save_model(model, path)
    loaded = load_model(path)
    for ours, theirs in ((model.params, loaded.params), (model.batch_stats, loaded.batch_stats)):
        assert jax.tree.structure(ours) == jax.tree.structure(theirs)
        jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    for field in ("name", "num_classes", "preprocessing", "layer_groups", "head", "architecture", "source"):
        assert getattr(loaded, field) == getattr(model, field)
    x = jax.random.normal(jax.random.key(2), (2, 16, 16, 3))
    np.testing.assert_array_equal(loaded.apply(loaded.params, x), model.apply(model.params, x))
    assert [file.name for file in path.parent.iterdir()] == ["small.safetensors"]


class User(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(2, name="linear")(x.mean((1, 2)))


def test_a_users_module_cannot_be_saved(tmp_path):
    user = from_flax(User(), User().init(jax.random.key(0), jnp.zeros((1, 4, 4, 3))), "linear", (4, 4, 3))
    with pytest.raises(LinftError, match="User is not of a registered architecture, so a file could not rebuild it"):
        save_model(user, tmp_path / "user.safetensors")


@pytest.fixture
def ours(model, tmp_path):
    """Path of a file of ours."""
    save_model(model, tmp_path / "ours.safetensors")
    return tmp_path / "ours.safetensors"


@pytest.fixture
def public(shared, tmp_path):
    """Path of a copy of a public file."""
    return shutil.copy(shared / "weights" / "resnet20_cifar10_akamaster.safetensors", tmp_path / "public.safetensors")


def test_counters_of_batches_are_passed_over(public):
    before = load_model(public)
    edit(public, lambda tensors: tensors.update({"bn1.num_batches_tracked": np.array(7)}))
    jax.tree.map(np.testing.assert_array_equal, load_model(public).params, before.params)


def edit(path, change):
    """Change the tensors of a safetensors file and leave its metadata."""
    with safe_open(path, "np") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata)


KERNEL = "params/stage1/block0/conv1/kernel"
OURS = {
    "a missing key": (lambda t: t.pop(KERNEL), f"{KERNEL} is missing"),
    "an unknown key": (lambda t: t.update(extra=np.zeros(2)), "extra is unknown"),
    "a wrong shape": (
        lambda t: t.update({KERNEL: t[KERNEL][:1]}),
        r"conv1/kernel has shape \(1, 3, 4, 4\) where \(3, 3, 4, 4\) is needed",
    ),
    "a weight that is no number": (
        lambda t: t.update({KERNEL: t[KERNEL] * np.nan}),
        f"{KERNEL} has values that are not finite",
    ),
    "another network": (
        lambda t: [t.pop(key) for key in list(t) if "stage3" in key],
        r"is missing; .* is missing \(and \d+ more\)",
    ),
}
PUBLIC = {
    "a missing key": (lambda t: t.pop("layer2.1.conv1.weight"), "params/stage2/block1/conv1/kernel is missing"),
    "an unknown layer": (lambda t: t.update({"fc.weight": np.zeros((2, 2, 1, 1))}), "params/fc/kernel is unknown"),
    "an unknown vector": (lambda t: t.update({"bn1.extra": np.zeros(2)}), "params/stem/norm/extra is unknown"),
    "a linear layer too many": (lambda t: t.update({"fc.weight": np.zeros((2, 2))}), "params/fc/kernel is unknown"),
    "a wrong shape": (lambda t: t.update({"linear.bias": np.zeros(9)}), r"head/bias has shape \(9,\) where \(10,\)"),
    "a weight that is no number": (
        lambda t: t.update({"bn1.bias": t["bn1.bias"] * np.inf}),
        "params/stem/norm/bias has values that are not finite",
    ),
    "no first stage": (
        lambda t: [t.pop(key) for key in list(t) if key.startswith("layer1")],
        "no architecture 'cifar_resnet2'",
    ),
    "no head": (lambda t: t.pop("linear.weight"), "looks like cifar_resnet20 without its head"),
    "another family": (
        lambda t: t.pop("conv1.weight"),
        r"no importer knows the keys of .*, such as bn1\.bias, .* \(and \d+ more\)",
    ),
}


@pytest.mark.parametrize(("fixture", "case"), [*(("ours", case) for case in OURS), *(("public", c) for c in PUBLIC)])
def test_refuses_a_file_with(request, fixture, case):
    change, message = (OURS if fixture == "ours" else PUBLIC)[case]
    path = request.getfixturevalue(fixture)
    edit(path, change)
    with pytest.raises(LinftError, match=message) as error:
        load_model(path)
    assert len(str(error.value).splitlines()) == 1


def test_refuses_a_file_cut_short(ours):
    ours.write_bytes(ours.read_bytes()[:-100])
    with pytest.raises(LinftError, match=r"ours.safetensors is not a readable safetensors file .*; was it cut short\?"):
        load_model(ours)


@pytest.mark.parametrize("name", ["net.pt", "net.pth", "net.pkl", "net.bin", "net.safetensors"])
def test_never_unpickles(tmp_path, name):
    marker = tmp_path / "ran"
    (tmp_path / name).write_bytes(pickle.dumps(Harmful(marker)))
    why = "not a readable safetensors file" if "safe" in name else "a pickle, and loading one can run any code"
    with pytest.raises(LinftError, match=f"{name} is {why}"):
        load_model(tmp_path / name)
    assert not marker.exists()


class Harmful:
    """A pickle of it makes a file where it is loaded."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return open, (str(self.marker), "w")


def test_refuses_a_file_of_an_architecture_that_is_not_registered(ours, model):
    save_model(model.replace(architecture={"name": "cifar_resnet7", "options": {}}), ours)
    with pytest.raises(LinftError, match="no architecture 'cifar_resnet7'; choose among"):
        load_model(ours)


def test_refuses_a_name_that_nobody_has():
    with pytest.raises(LinftError, match=r"no model 'resnet1001'; give hf:OWNER/NAME, a file, .* or one of"):
        load_model("resnet1001")
