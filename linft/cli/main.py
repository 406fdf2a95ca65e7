"""`linft COMMAND …`: finds the command, and turns errors into one line and exit code 2."""

import signal
import sys
from types import FrameType

import tyro

from linft.cli.compare import Compare
from linft.cli.pretrain import Pretrain
from linft.cli.pretrain_domains import PretrainDomains
from linft.cli.zoo_add import ZooAdd
from linft.cli.zoo_import import ZooImport
from linft.cli.zoo_list import ZooList
from linft.cli.zoo_show import ZooShow
from linft.errors import LinftError

COMMANDS = {"compare": Compare, "pretrain": Pretrain, "pretrain-domains": PretrainDomains}
GROUPS = {
    "zoo": (
        "Pretrained models in a directory, with what is known of them.",
        {"list": ZooList, "show": ZooShow, "import": ZooImport, "add": ZooAdd},
    ),
}


def main() -> None:
    """The console script."""
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        command = _application().cli(
            prog="linft", description="Foretell how a pretrained network fine-tunes, then check it."
        )
        command()
    except LinftError as error:
        _leave(str(error))
    except MemoryError:
        _leave("out of memory; use fewer images or a smaller batch size")
    except KeyboardInterrupt:
        _leave("interrupted; what is finished is kept, and the same command goes on from what is on disk")


def _application() -> tyro.extras.SubcommandApp:
    application = tyro.extras.SubcommandApp()
    for name, command in COMMANDS.items():
        application.command(name=name)(command)
    for name, (description, commands) in GROUPS.items():
        group = tyro.extras.SubcommandApp()
        for member, command in commands.items():
            group.command(name=member)(command)
        application.command(group, name=name, help=description)
    return application


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _leave(message: str) -> None:
    print(f"linft: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    main()
