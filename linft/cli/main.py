"""`linft COMMAND …`: finds the command, and turns errors into one line and exit code 2."""

import io
import signal
import sys
from collections.abc import Callable
from types import FrameType

import tyro

from linft.cli.advise import Advise
from linft.cli.benchmark_selection import BenchmarkSelection
from linft.cli.compare import Compare
from linft.cli.data_list import DataList
from linft.cli.data_prepare import DataPrepare
from linft.cli.finetune import Finetune
from linft.cli.kernel import ComputeKernel
from linft.cli.predict import Predict
from linft.cli.pretrain import Pretrain
from linft.cli.pretrain_domains import PretrainDomains
from linft.cli.rank import Rank
from linft.cli.sweep import SweepRecipes
from linft.cli.zoo_add import ZooAdd
from linft.cli.zoo_import import ZooImport
from linft.cli.zoo_list import ZooList
from linft.cli.zoo_show import ZooShow
from linft.core.errors import LinftError

COMMANDS = {
    "advise": Advise,
    "benchmark-selection": BenchmarkSelection,
    "compare": Compare,
    "finetune": Finetune,
    "kernel": ComputeKernel,
    "predict": Predict,
    "pretrain": Pretrain,
    "pretrain-domains": PretrainDomains,
    "rank": Rank,
    "sweep": SweepRecipes,
}
GROUPS = {
    "data": (
        "Data sets of the papers: what they are, and which are on disk.",
        {"list": DataList, "prepare": DataPrepare},
    ),
    "zoo": (
        "Pretrained models in a directory, with what is known of them.",
        {"list": ZooList, "show": ZooShow, "import": ZooImport, "add": ZooAdd},
    ),
}


def main() -> None:
    """The console script."""
    signal.signal(signal.SIGTERM, _interrupt)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names of files that are no UTF-8, as stderr has them
    try:
        _command(sys.argv[1:])()
    except LinftError as error:
        _leave(str(error))
    except MemoryError:
        _leave("out of memory; use fewer images or a smaller batch size")
    except KeyboardInterrupt:
        _leave(
            "interrupted; what is finished is kept, and the same command goes on from it, finetune with --resume auto "
            "and kernel with --resume"
        )


def _command(arguments: list[str]) -> Callable[[], None]:
    """The command that the arguments ask for."""
    if parse := getattr(COMMANDS.get("".join(arguments[:1])), "parse", None):  # its defaults depend on its arguments
        return parse(arguments[1:], f"linft {arguments[0]}")
    return _application().cli(
        args=arguments, prog="linft", description="Predict how a pretrained network fine-tunes, then check it."
    )


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
