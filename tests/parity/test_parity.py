"""One small network of each family agrees with its original; `make parity` does all of them at full size."""

from importlib.util import find_spec

import pytest

for name in ("torch", "timm", "torchvision"):
    if find_spec(name) is None:
        pytest.skip(f"{name}, which has the originals, is not installed: `make parity`", allow_module_level=True)

from agreement import compare  # noqa: E402
from peers import SMALL  # noqa: E402


@pytest.mark.parametrize("name", SMALL)
def test_agrees_with_its_original(name, tmp_path):
    errors = compare(SMALL[name], tmp_path)
    assert errors.logits < 1e-4
    assert errors.features < 1e-4
    assert errors.statistics < 1e-4
    assert errors.gradients < 1e-3
