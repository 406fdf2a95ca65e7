"""Write scores.npz: what public implementations give on scanned digits, for tests/scores/test_peers.py.

LEEP, NCE, H-score, LogME and TransRate are the functions of the Transfer Learning Library (tllib/ranking),
taken out of its files so that neither torch nor numba is needed. LogME there stops when λ moves by less
than 1%; here it goes on until it no longer moves.

    git clone https://github.com/thuml/Transfer-Learning-Library
    pip install scikit-learn && python make_scores.py Transfer-Learning-Library/tllib/ranking
"""

import ast
import sys
from pathlib import Path

import numpy as np
from sklearn.covariance import LedoitWolf
from sklearn.datasets import load_digits


def functions(source: str) -> dict:
    """The functions of a file, without its imports, classes and decorators."""
    kept = [node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)]
    for node in kept:
        node.decorator_list = []
    names = {"np": np, "LedoitWolf": LedoitWolf}
    exec(compile(ast.Module(kept, []), "peer", "exec"), names)
    return names


def main(ranking: Path) -> None:
    """Arrays and the scores of each."""
    peers: dict = {}
    for name in ("leep", "nce", "hscore", "logme", "transrate"):
        source = (ranking / f"{name}.py").read_text()
        peers |= functions(source.replace("range(11)", "range(100_000)").replace("/ lam < 0.01", "/ lam < 1e-15"))
    digits = load_digits()
    x, y = digits.data[:200], digits.target[:200]
    target, source = y < 3, y >= 3
    means = np.stack([x[source][y[source] == c].mean(0) for c in range(3, 10)])
    images, labels = x[target], y[target]
    distance = np.square(images[:, None] - means).sum(-1)
    probabilities = np.exp(-distance / distance.mean())
    probabilities /= probabilities.sum(1, keepdims=True)
    narrow = images.reshape(-1, 4, 2, 4, 2).mean((2, 4)).reshape(len(images), 16)
    few = np.concatenate([np.flatnonzero(labels == c)[:12] for c in range(3)])
    even = np.concatenate([np.flatnonzero(labels == c)[:15] for c in range(3)])
    normalized = narrow[even] - narrow[even].mean(0)
    normalized = normalized / np.sqrt(np.mean(np.sum(normalized**2, axis=1)))
    np.savez_compressed(
        Path(__file__).parent / "scores.npz",
        images=images.astype(np.uint8),
        narrow=narrow,
        probabilities=probabilities,
        labels=labels.astype(np.uint8),
        few=few,
        even=even,
        leep=peers["log_expected_empirical_prediction"](probabilities, labels),
        nce=peers["negative_conditional_entropy"](probabilities.argmax(1), labels),
        hscore=peers["regularized_h_score"](narrow, labels),
        hscore_few=peers["regularized_h_score"](images[few], labels[few]),
        logme=peers["log_maximum_evidence"](narrow, labels),
        logme_few=peers["log_maximum_evidence"](images[few], labels[few]),
        transrate=peers["transrate"](normalized, labels[even]),
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
