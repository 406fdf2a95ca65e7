"""LEEP, NCE and N-LEEP: how well classes of the source, or clusters of the features, tell the labels."""

import warnings

import numpy as np
from jaxtyping import ArrayLike, Float, Integer

from linft.core.errors import LinftError
from linft.scores.arrays import Undefined, class_numbers, finite, labelled, numbered, one_hot, principal

ENERGY = 0.8  # of the features' variance that the principal components of N-LEEP keep


def leep(probabilities: Float[ArrayLike, "n s"], labels: Integer[ArrayLike, "n"]) -> float:
    """Mean log Σ_z P̂(y_i | z) p_iz, from the source head's probabilities p_iz = softmax(f(x_i))_z.

    P̂(y | z) = P̂(y, z) / P̂(z) with P̂(y, z) = (1/n) Σ_{i of class y} p_iz, the empirical joint distribution
    of target and source labels. A source class without mass adds nothing. At most 0, in nats.

    Nguyen and others 2020, *LEEP: a new measure to evaluate transferability of learned representations*,
    eq. 2.

    Raises:
      LinftError: there are not as many labels as rows.
      Undefined: there is one class only, or rows are no probabilities.

    Example:
      >>> import numpy as np
      >>> round(leep(np.array([[0.9, 0.1], [0.2, 0.8]]), np.array([0, 1])), 4)
      -0.2911
    """
    y, p = one_hot(class_numbers(labels)), finite(probabilities, "probabilities")
    if p.ndim != 2 or len(p) != len(y):
        raise LinftError(f"probabilities of shape {p.shape} and {len(y)} labels; give one row a label")
    if p.min(initial=0.0) < 0 or np.abs(p.sum(1) - 1).max(initial=0.0) > 1e-2:
        raise Undefined("rows are no probabilities: not negative and with sum 1; give the softmax of the logits")
    joint = y.T @ p  # [c s], times n
    mass = joint.sum(0)
    given = np.divide(joint, mass, out=np.zeros_like(joint), where=mass > 0)
    return float(np.log(np.sum((y @ given) * p, axis=1)).mean())


def nce(source_labels: Integer[ArrayLike, "n"], labels: Integer[ArrayLike, "n"]) -> float:
    """−H(Y | Z) = Σ_yz P̂(y, z) log P̂(y | z), where z is the source class that the model gives an image.

    At most 0, in nats: 0 where the source class tells the target class.

    Tran and others 2019, *Transferability and hardness of supervised classification tasks*.

    Raises:
      LinftError: there are not as many labels as source labels.
      Undefined: there is one class only.

    Example:
      >>> import numpy as np
      >>> round(nce(np.array([5, 5, 7, 7]), np.array([0, 1, 1, 1])), 4)
      -0.3466
    """
    y = class_numbers(labels)
    z = numbered(source_labels, "source labels")
    if len(z) != len(y):
        raise LinftError(f"{len(z)} source labels and {len(y)} labels; give one of each an image")
    joint = np.zeros((z.max() + 1, y.max() + 1))
    np.add.at(joint, (z, y), 1)
    return float(np.log(joint[z, y] / joint.sum(1)[z]).mean())


def nleep(
    features: Float[ArrayLike, "n d"], labels: Integer[ArrayLike, "n"], components: int | None = None, seed: int = 0
) -> float:
    """LEEP with the posterior of a Gaussian mixture in place of the source head's probabilities.

    The mixture is fitted to the principal components that keep 80% of the variance, brought to unit
    mean variance, so that its regularisation is free of scale. Components: by default five a class, but
    with fewer than five images for each fewer, down to one a class.

    Li and others 2021, *Ranking neural checkpoints*.

    Raises:
      LinftError: more components than images are asked for, or none.
      Undefined: there is one class only, or all images have the same features.

    Example:
      >>> import numpy as np
      >>> features = np.array([[0.0], [0.1], [5.0], [5.1]])
      >>> abs(nleep(features, np.array([0, 0, 1, 1]), components=2)) < 1e-6
      True
    """
    from sklearn.exceptions import ConvergenceWarning  # slow to load, for one score
    from sklearn.mixture import GaussianMixture

    x, y = labelled(features, labels)
    n, c = len(x), int(y.max()) + 1
    components = min(5 * c, max(c, n // 5)) if components is None else components
    if not 1 <= components <= n:
        raise LinftError(f"components is {components}; give 1 to {n}, the number of images")
    u, s, _ = principal(x - x.mean(0))
    kept = int(np.searchsorted(np.cumsum(s**2), ENERGY * np.sum(s**2))) + 1
    x = u[:, :kept] * s[:kept]
    mixture = GaussianMixture(components, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a mixture after 100 iterations is good enough to score
        posterior = mixture.fit(x / x.std()).predict_proba(x / x.std())
    return leep(posterior, y)
