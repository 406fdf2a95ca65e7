"""The one exception that means: this score does not exist for this input, and here is why."""

from linft.core.errors import LinftError


class Undefined(LinftError):
    """A score that does not exist for its input, with the reason in one line; no score is ever NaN.

    A ranking reports it beside the model and goes on with the other scores.
    """
