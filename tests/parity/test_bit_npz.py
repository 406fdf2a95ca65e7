"""A BiT archive in Google's layout gives the same logits here and in timm, which reads such files too."""

import numpy as np
import pytest

pytest.importorskip("torch", reason="the original needs torch: `make parity`")

import jax
import torch
from agreement import images, nhwc, relative
from peers import SMALL

import linft

CONVOLUTIONS = {"a": "conv1", "b": "conv2", "c": "conv3"}


def archive(model: torch.nn.Module) -> dict[str, np.ndarray]:
    """Random arrays of every key that timm reads into the model."""
    rng = np.random.default_rng(0)

    def kernel(weight: torch.Tensor) -> np.ndarray:
        outputs, inputs, height, width = weight.shape
        return rng.normal(size=(height, width, inputs, outputs)).astype(np.float32)

    def norm(at: str, width: int) -> dict[str, np.ndarray]:
        return {
            f"{at}/group_norm/{leaf}": rng.uniform(0.5, 1.5, width).astype(np.float32) for leaf in ("gamma", "beta")
        }

    arrays = {"resnet/root_block/standardized_conv2d/kernel": kernel(model.stem.conv.weight)}
    for i, stage in enumerate(model.stages):
        for j, block in enumerate(stage.blocks):
            at = f"resnet/block{i + 1}/unit{j + 1:02d}"
            for part, name in CONVOLUTIONS.items():
                weight = getattr(block, name).weight
                arrays[f"{at}/{part}/standardized_conv2d/kernel"] = kernel(weight)
                arrays |= norm(f"{at}/{part}", weight.shape[1])
            if block.downsample is not None:
                arrays[f"{at}/a/proj/standardized_conv2d/kernel"] = kernel(block.downsample.conv.weight)
    arrays |= norm("resnet", model.num_features)
    head = kernel(model.head.fc.weight)
    return arrays | {
        "resnet/head/conv2d/kernel": head,
        "resnet/head/conv2d/bias": rng.normal(size=5).astype(np.float32),
    }


def test_an_archive_gives_the_logits_that_timm_makes_of_it(tmp_path):
    peer = SMALL["bit"]
    original = peer.build().eval()
    path = tmp_path / "bit.npz"
    np.savez(path, **archive(original))
    original.load_pretrained(str(path))
    model, x = linft.load_model(path), images(peer.size)
    with torch.no_grad():
        expected = original(x).numpy()
    assert relative(jax.jit(model.apply)(model.params, nhwc(x)), expected) < 1e-4
