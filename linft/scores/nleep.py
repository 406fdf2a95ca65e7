"""LEEP of clusters of the features, for models without a source head."""

import warnings

import numpy as np
from jaxtyping import ArrayLike, Float, Integer

from linft.core.errors import LinftError
from linft.scores.inputs import labelled
from linft.scores.leep import leep
from linft.scores.principal import principal

ENERGY = 0.8  # of the features' variance that the principal components keep


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
