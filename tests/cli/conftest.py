"""What tests of the command line share."""

import sys

import pytest
from narrow import small_resnet

import linft
from linft.cli.main import main


@pytest.fixture(scope="session")
def model_file(tmp_path_factory):
    """A small network with four outputs, on disk."""
    path = tmp_path_factory.mktemp("model") / "small.safetensors"
    linft.save_model(small_resnet(4), path)
    return path


@pytest.fixture
def call(request, monkeypatch, capsys):
    """What the command that a module's COMMAND names prints; some modules have a call of their own."""

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["linft", *request.module.COMMAND, *map(str, arguments)])
        main()
        return capsys.readouterr().out

    return call


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
