"""The baseline that knows nothing."""

from hashlib import sha256


def random_score(name: str, seed: int = 0) -> float:
    """A number from 0 to 1 that depends on the model's name and the seed alone.

    Example:
      >>> random_score("resnet18") == random_score("resnet18"), random_score("a") == random_score("b")
      (True, False)
    """
    return int.from_bytes(sha256(f"{seed} {name}".encode()).digest()[:8], "big") / 2**64
