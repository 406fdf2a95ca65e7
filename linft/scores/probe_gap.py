"""What pretrained features give without training over what training from scratch gives."""

from linft.core.errors import LinftError


def probe_gap(probe_accuracy: float, scratch_accuracy: float) -> float:
    """Accuracy of a linear classifier on fixed features, less that of the same network trained from scratch.

    Both from 0 to 1. Above 0 the pretrained features suit the task.

    Plested, Shen and Gedeon 2021, *Rethinking binary hyperparameters for deep transfer learning for image
    classification*, Table 7 (with the sign turned).

    Raises:
      LinftError: an accuracy is not between 0 and 1.

    Example:
      >>> probe_gap(0.75, 0.5)
      0.25
    """
    for name, value in (("probe_accuracy", probe_accuracy), ("scratch_accuracy", scratch_accuracy)):
        if not 0 <= value <= 1:
            raise LinftError(f"{name} is {value}; give a share from 0 to 1")
    return float(probe_accuracy - scratch_accuracy)
