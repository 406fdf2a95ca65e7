"""Write torch_sgd.npz: weights after each of 30 steps of torch's optimizers, for tests/training/test_optimizer.py.

Softmax regression on the first 60 scanned digits 0, 1 and 2 (means of 2×2 pixels), full batch, float64,
the rate divided by ten half way. Written with torch 2.13.0:

    pip install torch==2.13.0 scikit-learn && python make_torch_sgd.py
"""

from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits

STEPS, RATE, DECAY = 30, 0.5, 0.05
MOMENTUM = {"nesterov": 0.9, "heavy_ball": 0.9, "plain": 0.0, "groups": 0.9, "pretrained": 0.9}


def train(name, x, y, kernel, bias):
    """Weights before the first step and after each, [31, 17, 3], the bias in the last row."""
    start = kernel, bias
    kernel, bias = (torch.tensor(v, requires_grad=True) for v in start)
    decay = 0.0 if name == "pretrained" else DECAY
    bias_settings = {"lr": RATE / 2, "weight_decay": 0.0} if name == "groups" else {}
    groups = [{"params": [kernel]}, {"params": [bias], **bias_settings}]
    if name == "adam":
        optimizer = torch.optim.Adam(groups, RATE / 10, weight_decay=decay)
    else:
        optimizer = torch.optim.SGD(
            groups, RATE, MOMENTUM[name], weight_decay=decay, nesterov=name not in ("heavy_ball", "plain")
        )
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [STEPS // 2], gamma=0.1)
    weights = []
    for _ in range(STEPS):
        weights.append(torch.cat([kernel, bias[None]]).detach().numpy().copy())
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(x @ kernel + bias, y)
        if name == "pretrained":  # decay towards the start has no switch in torch, so it is a term of the loss
            moved = kernel - torch.tensor(start[0]), bias - torch.tensor(start[1])
            loss = loss + DECAY / 2 * sum((m**2).sum() for m in moved)
        loss.backward()
        optimizer.step()
        schedule.step()
    weights.append(torch.cat([kernel, bias[None]]).detach().numpy().copy())
    return np.stack(weights)


if __name__ == "__main__":
    data = load_digits()
    keep = np.flatnonzero(data.target < 3)[:60]
    x, y = data.images[keep].reshape(60, 4, 2, 4, 2).mean((2, 4)).reshape(60, 16) / 16, data.target[keep]
    rng = np.random.default_rng(0)
    start = rng.normal(size=(16, 3)), rng.normal(size=3)
    arrays = {name: train(name, torch.tensor(x), torch.tensor(y), *start) for name in [*MOMENTUM, "adam"]}
    np.savez_compressed(Path(__file__).with_name("torch_sgd.npz"), x=x, y=y, **arrays)
