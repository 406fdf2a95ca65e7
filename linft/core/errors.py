"""The one exception that means: the input was wrong, and here is what to do."""


class LinftError(Exception):
    """A one-line message that says what was wrong and what to do about it.

    The command line prints it without a traceback and leaves with exit code 2.
    """


def no_derivative(what: str, image: int) -> LinftError:
    """The error of a derivative that is not finite where the weights and the image are."""
    return LinftError(
        f"{what} is not finite at image {image}, though the weights and the image are: the network has no finite "
        "derivative there, as a norm has none at zero (add a small number under its root), or its values are too large"
    )


class Unavailable(LinftError):
    """What was asked for cannot be computed of this network or on this machine; something else may be."""
