"""neural-tangents loads on current JAX, without TensorFlow, and leaves JAX as it was; and linft without it."""

import importlib
import subprocess
import sys

import jax
import pytest

import linft
from linft.core.errors import LinftError
from linft.ntk import neural_tangents_compat

IMPORT = """
import sys
import jax, jax.core, jax.example_libraries.stax, jax.extend.core, jax.interpreters.ad
import linft.ntk.neural_tangents_compat as compat

def names():
    owners = {"jax": jax, "core": jax.core, "ad": jax.interpreters.ad}
    return {(owner, name): value for owner in owners for name, value in vars(owners[owner]).items()}

before, util = names(), sys.modules.get("jax.util")
nt = compat.load()
after = names()
lost = [name for name in before if after.get(name) is not before[name]]
added = [name for name in after.keys() - before.keys() if type(after[name]) is not type(sys) or name[1] == "util"]
assert not lost and not added, (lost, added)  # submodules that JAX itself imports late may come
assert sys.modules.get("jax.util") is util
assert compat.load() is nt and nt.empirical_ntk_fn and nt.predict.gradient_descent_mse
assert "tensorflow" not in sys.modules
"""


def test_loads_without_a_trace():
    subprocess.run([sys.executable, "-W", "error", "-c", IMPORT], check=True)


@pytest.mark.parametrize("error", [ImportError("cannot import name 'Jaxpr'"), AttributeError("no 'util'")])
def test_says_what_to_do_if_jax_breaks_it(monkeypatch, error):
    for name in [name for name in sys.modules if name.split(".")[0] == "neural_tangents"]:
        monkeypatch.delitem(sys.modules, name)

    def broken(name):
        sys.modules["neural_tangents._src"] = sys  # as far as the import came
        raise error

    monkeypatch.setattr(importlib, "import_module", broken)
    with pytest.raises(LinftError, match=rf'does not import on JAX .* \({error}\); use engine="layerwise"'):
        neural_tangents_compat.load()
    assert not [name for name in sys.modules if name.split(".")[0] == "neural_tangents"]


HOW_TO_GET_IT = "^neural-tangents is not installed: pip install --no-deps neural-tangents frozendict$"


@pytest.mark.parametrize("missing", ["neural_tangents", "frozendict"])
def test_what_is_not_installed_is_said_in_one_line(monkeypatch, missing):
    def absent(name):
        raise ModuleNotFoundError(f"No module named {missing!r}", name=missing)

    monkeypatch.delitem(sys.modules, "neural_tangents", raising=False)
    monkeypatch.setattr(importlib, "import_module", absent)
    with pytest.raises(LinftError, match=HOW_TO_GET_IT):
        neural_tangents_compat.load()


def test_without_it_its_engine_and_flow_say_how_to_get_it_before_they_compute(
    without_neural_tangents, digits, monkeypatch
):
    monkeypatch.setattr(linft.Model, "preprocess", lambda *_: pytest.fail("computed first"))
    model = linft.models.create("cifar_resnet8", 10, jax.random.key(0), width=4)
    with pytest.raises(LinftError, match=HOW_TO_GET_IT):
        linft.predict.gradient_flow(model, digits)
    with pytest.raises(LinftError, match=HOW_TO_GET_IT):
        linft.empirical_ntk(model, jax.numpy.zeros((2, 32, 32, 3)), engine="neural-tangents")
