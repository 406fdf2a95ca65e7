"""neural-tangents loads on current JAX, without TensorFlow, and leaves JAX as it was."""

import importlib
import subprocess
import sys

import pytest

from linft._compat import neural_tangents
from linft.errors import LinftError

IMPORT = """
import sys
import jax, jax.core, jax.example_libraries.stax, jax.extend.core, jax.interpreters.ad
import linft._compat.neural_tangents as compat

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
        neural_tangents.load()
    assert not [name for name in sys.modules if name.split(".")[0] == "neural_tangents"]
