"""`linft COMMAND …`: finds the command, and turns errors into one line and exit code 2."""

import signal
import sys
from types import FrameType

import tyro

from linft.cli.compare import Compare
from linft.errors import LinftError

COMMANDS = {"compare": Compare}


def main() -> None:
    """The console script."""
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        command = tyro.extras.subcommand_cli_from_dict(
            COMMANDS, prog="linft", description="Foretell how a pretrained network fine-tunes, then check it."
        )
        command()
    except LinftError as error:
        _leave(str(error))
    except MemoryError:
        _leave("out of memory; use fewer images or a smaller batch size")
    except KeyboardInterrupt:
        _leave("interrupted; what is finished is kept, and the same command goes on from there")


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _leave(message: str) -> None:
    print(f"linft: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    main()
