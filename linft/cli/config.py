"""Files of options in YAML: each option by its name on the command line, which overrides it."""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from linft.core.errors import LinftError


def expand(arguments: Sequence[str]) -> list[str]:
    r"""The arguments after those of the file that `--config` names, so that they override it.

    Raises:
      LinftError: the file is missing, or is not a YAML mapping of options.

    Example:
      >>> import tempfile
      >>> path = Path(tempfile.mkdtemp()) / "options.yaml"
      >>> _ = path.write_text("learning_rate: 0.1\nseeds: [0, 1]\nnesterov: false\nsteps: null\n")
      >>> expand(["--config", str(path), "--steps", "3"])[:7]
      ['--learning-rate', '0.1', '--seeds', '0', '1', '--no-nesterov', '--steps']
    """
    name = value_of("config", arguments)
    if name is None:
        return list(arguments)
    try:
        options = yaml.safe_load(Path(name).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = getattr(error, "strerror", None) or error
        raise LinftError(
            f"cannot read the options in {name} ({reason}); give a YAML file such as config.yaml"
        ) from None
    if not isinstance(options, dict) or not all(isinstance(key, str) for key in options):
        raise LinftError(f"{name} is not a mapping of options, such as `learning_rate: 0.01` on a line")
    return [*(word for key, value in options.items() for word in _words(key, value)), *arguments]


def value_of(option: str, arguments: Sequence[str]) -> str | None:
    """The last value that an option is given, which must be known before the others are read."""
    found = None
    for word, following in zip(arguments, [*arguments, None][1:], strict=True):
        if word == f"--{option}":
            found = following
        elif word.startswith(f"--{option}="):
            found = word.partition("=")[2]
    return None if found == "None" else found


def last_of(arguments: Sequence[str], *options: str) -> list[str]:
    """The arguments with only the last given of options that exclude one another; the others are None.

    Example:
      >>> last_of(["--epochs", "10", "--steps", "3"], "steps", "epochs")
      ['--epochs', '10', '--steps', '3', '--epochs', 'None']
    """
    given = [word[2:].partition("=")[0] for word in arguments if word.startswith("--")]
    order = [name for name in given if name in options and value_of(name, arguments) is not None]
    others = [name for name in options if order and name != order[-1]]
    return [*arguments, *(word for name in others for word in (f"--{name}", "None"))]


def flat(options: Any) -> dict[str, Any]:
    """The options of nested dataclasses by their names in a file; as YAML has them."""

    def values(of: Any) -> Iterator[tuple[str, Any]]:
        for field in dataclasses.fields(of):
            value = getattr(of, field.name)
            if dataclasses.is_dataclass(value):
                yield from values(value)
            else:
                yield ("recipe" if field.name == "named" else field.name), _plain(value)

    return dict(values(options))


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(each) for each in value]
    return str(value) if isinstance(value, Path) else value


def _words(key: str, value: Any) -> list[str]:
    name = key.replace("_", "-")
    if isinstance(value, bool):
        return [f"--{name}" if value else f"--no-{name}"]
    return [f"--{name}", *_flat_words(value)]


def _flat_words(value: Any) -> list[str]:
    return [word for each in value for word in _flat_words(each)] if isinstance(value, list) else [str(value)]
