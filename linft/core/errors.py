"""The one exception that means: the input was wrong, and here is what to do."""


class LinftError(Exception):
    """A one-line message that says what was wrong and what to do about it.

    The command line prints it without a traceback and leaves with exit code 2.
    """
