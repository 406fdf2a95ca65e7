"""What tests of the command line share."""

import pytest


@pytest.fixture
def refused(call, capsys):
    """The one line of an error of what `call` calls."""

    def refused(*arguments):
        with pytest.raises(SystemExit) as error:
            call(*arguments)
        (line,) = capsys.readouterr().err.splitlines()
        assert error.value.code == 2
        return line

    return refused
