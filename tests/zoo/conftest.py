"""Files as others publish them."""

import numpy as np
import pytest


@pytest.fixture(scope="session")
def torch_resnet18() -> dict[str, np.ndarray]:
    """The state dict of a ResNet-18 as torchvision and timm write it, of width 4 and five classes, at random."""
    rng = np.random.default_rng(0)
    state: dict[str, np.ndarray] = {}

    def convolution(name: str, inputs: int, outputs: int, size: int) -> None:
        state[f"{name}.weight"] = rng.normal(scale=(size * size * inputs) ** -0.5, size=(outputs, inputs, size, size))

    def norm(name: str, width: int) -> None:
        state.update({f"{name}.{leaf}": rng.uniform(0.5, 1.5, width) for leaf in ("weight", "bias", "running_mean")})
        state[f"{name}.running_var"] = rng.uniform(0.5, 1.5, width)
        state[f"{name}.num_batches_tracked"] = np.array(7)

    convolution("conv1", 3, 4, 7)
    norm("bn1", 4)
    inputs = 4
    for stage, width in enumerate((4, 8, 16, 32), start=1):
        for block in range(2):
            name = f"layer{stage}.{block}"
            convolution(f"{name}.conv1", inputs, width, 3)
            convolution(f"{name}.conv2", width, width, 3)
            norm(f"{name}.bn1", width)
            norm(f"{name}.bn2", width)
            if inputs != width:
                convolution(f"{name}.downsample.0", inputs, width, 1)
                norm(f"{name}.downsample.1", width)
            inputs = width
    state["fc.weight"], state["fc.bias"] = rng.normal(size=(5, 32)), rng.normal(size=5)
    return {key: array.astype(np.float32) if array.ndim else array for key, array in state.items()}
