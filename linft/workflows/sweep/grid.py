"""What a sweep tries: the papers' grids by name, lists and distributions of settings; and their recipes.

Plain Python and numpy, as recipes are.
"""

import dataclasses
import itertools
import math
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

import numpy as np
import yaml

from linft.core.errors import LinftError
from linft.core.layer_settings import LayerSettings
from linft.core.recipe import Recipe

Values = dict[str, Any]
"""What a point of a sweep sets, by the name of the setting: a field of Recipe or of LayerSettings."""

TUPLES = ("drop_at", "decay_groups", "l2sp_groups", "rate_multipliers", "frozen_groups")
TYPES = {f.name: f.type for of in (Recipe, LayerSettings) for f in dataclasses.fields(of) if f.name not in TUPLES}
WORDS = {float: "a number", int: "a whole number", bool: "true or false", str: "a name", types.NoneType: "none"}
OF_DEPTH = {field.name for field in dataclasses.fields(LayerSettings)}


@dataclass(frozen=True)
class Drawn:
    """Numbers between two bounds, at random: evenly, evenly in the logarithm, or whole ones."""

    scale: Literal["uniform", "log", "int"]
    low: float
    high: float

    def __post_init__(self):
        if not (self.low < self.high and math.isfinite(self.high - self.low) and (self.scale != "log" or self.low > 0)):
            raise LinftError(f"nothing can be drawn from {self}; the bounds must ascend, and be above 0 for log")

    def draw(self, rng: np.random.Generator) -> float | int:
        """One number."""
        if self.scale == "int":
            return int(rng.integers(int(self.low), int(self.high), endpoint=True))
        if self.scale == "log":
            return float(np.exp(rng.uniform(np.log(self.low), np.log(self.high))))
        return float(rng.uniform(self.low, self.high))

    def __str__(self) -> str:
        return f"{self.scale}:{self.low:g}:{self.high:g}"


Source = Union[str, Path, "Grid", Mapping[str, Any], Sequence[Any]]
"""What a grid can be made of: a name, a file, a block of settings, or a list of blocks."""

GridBlock = Mapping[str, tuple | Drawn]
"""Setting -> the values that it takes, or a distribution of them."""


@dataclass(frozen=True)
class Grid:
    """Settings to try: the points of one block after another.

    A block of lists is their product, the last setting varying fastest. A block with a distribution is
    `trials` random points, in which lists are drawn from too.

    Example:
      >>> grid = Grid("mine", ({"learning_rate": (0.1, 0.01), "momentum": (0.9, 0.0)},))
      >>> [tuple(values.values()) for values in grid.points()]
      [(0.1, 0.9), (0.1, 0.0), (0.01, 0.9), (0.01, 0.0)]
    """

    name: str
    blocks: tuple[GridBlock, ...]
    trials: int | None = None
    """How many points are drawn from a block with a distribution, or tried by a search."""
    seed: int = 0
    """Of the draw."""

    def points(self) -> list[Values]:
        """Every point once, in order.

        Raises:
          LinftError: there is a distribution, and trials is not given.
        """
        found = (values for block in self.blocks for values in self._of_block(block))
        return list({tuple(values.items()): values for values in found}.values())

    def _of_block(self, block: GridBlock) -> Iterable[Values]:
        if not any(isinstance(of, Drawn) for of in block.values()):
            return (dict(zip(block, of, strict=True)) for of in itertools.product(*block.values()))  # pyright: ignore
        if self.trials is None:
            raise LinftError("a grid with a distribution needs the number of points to draw; give trials")
        rng = np.random.default_rng(self.seed)

        def draw(of: tuple | Drawn) -> Any:
            return of.draw(rng) if isinstance(of, Drawn) else of[int(rng.integers(len(of)))]

        return [{name: draw(of) for name, of in block.items()} for _ in range(self.trials)]

    def as_json(self) -> dict[str, Any]:
        """The grid in plain values; a distribution as the text that it is read from."""
        blocks = [
            {name: str(of) if isinstance(of, Drawn) else list(of) for name, of in block.items()}
            for block in self.blocks
        ]
        return {"name": self.name, "blocks": blocks, "trials": self.trials, "seed": self.seed}


def li2020(groups: int) -> tuple[GridBlock, ...]:
    """Li and others 2020, section 3.1: 6 rates × 5 momenta × 4 decays (of its recipe's decoupled convention)."""
    del groups
    return (
        {
            "learning_rate": (0.1, 0.05, 0.01, 0.005, 0.001, 0.0001),
            "momentum": (0.99, 0.95, 0.9, 0.8, 0.0),
            "weight_decay": (0.0, 1e-4, 5e-4, 1e-3),
        },
    )


def l2sp(groups: int) -> tuple[GridBlock, ...]:
    """Li and others 2020, appendix C: 5 rates × 4 strengths λ1, for L2-SP (λ2 = 0.01) and for L2 (λ2 = λ1)."""
    del groups
    rates, strengths = (0.02, 0.01, 0.005, 0.001, 0.0001), (0.1, 0.01, 0.001, 0.0001)
    return (
        {"learning_rate": rates, "l2sp": strengths, "weight_decay": (0.01,)},
        {"learning_rate": rates, "l2sp": (0.0,), "weight_decay": strengths},
    )


INCEPTION = 22  # layers below the head that Plested and others count


def plested2021(groups: int) -> tuple[GridBlock, ...]:
    """Plested and others 2021, sections 4.3 to 4.5, one search after another, with the values of Tables 2 to 6.

    1 to 3 new layers × rates; × high and low rates × low layers; × L2-SP's α × β × layers that it holds, at
    the two default rates of Table 2 that lie furthest apart. Their 8, 10, 12 and 14 of Inception v4's 22
    layers below the head become the same shares of this network's groups below its head.
    """
    rates = (0.025, 0.02, 0.015, 0.0025, 0.002, 0.0015, 0.001)
    below = groups - 1
    low, held = (
        tuple(dict.fromkeys(max(1, round(k * below / INCEPTION)) for k in of)) for of in ((8, 10, 12, 14), (10, 14))
    )
    blocks: list[GridBlock] = []
    for new in range(1, min(3, groups - 1) + 1):
        start = {"reinit_groups": (new,)}
        blocks.append({**start, "learning_rate": rates})
        transferred = tuple(k for k in low if k <= groups - new)
        for rate in rates:
            if lower := tuple(each for each in (0.015, 0.01, 0.0015, 0.001) if each < rate):
                blocks.append({**start, "learning_rate": (rate,), "low_rate": lower, "low_groups": transferred})
        strengths = {"l2sp": (0.01, 0.001, 0.0001), "weight_decay": (0.01, 0.001)}
        lowest = (None, *(k for k in held if k < groups - new))
        blocks.append({**start, "learning_rate": (0.025, 0.002), **strengths, "l2sp_lowest": lowest})
    return tuple(blocks)


GRIDS: dict[str, Callable[[int], tuple[GridBlock, ...]]] = {"li2020": li2020, "l2sp": l2sp, "plested2021": plested2021}
"""The papers' grids: functions of the number of layer groups."""

RECIPES = {"li2020": "li2020", "l2sp": "l2sp2018", "plested2021": "plested2021"}
"""The recipe in `linft.recipes` whose settings a paper's grid varies."""


def grid(of: Source, groups: int = 5, trials: int | None = None, seed: int = 0) -> Grid:
    """The grid of this name, in this YAML file, or of these settings.

    A file, or the settings themselves, are a mapping from settings to values, or a list of such blocks.
    Values are one or a list, or a distribution as a text: log:1e-4:0.1, uniform:0:0.99, int:1:3.

    Args:
      of: what to try.
      groups: layer groups of the model, which `plested2021` depends on.
      trials, seed: of distributions.

    Raises:
      LinftError: no such grid, an unreadable file, an unknown setting, a value that it cannot have.

    Example:
      >>> len(grid("li2020").points()), grid({"weight_decay": "log:1e-5:0.1"}).blocks
      (120, ({'weight_decay': Drawn(scale='log', low=1e-05, high=0.1)},))
    """
    if isinstance(of, Grid):
        return of
    if isinstance(of, str | Path):
        if str(of) in GRIDS:
            return Grid(str(of), GRIDS[str(of)](groups), trials, seed)
        return dataclasses.replace(grid(_read(Path(of)), groups, trials, seed), name=Path(of).stem)
    blocks = [of] if isinstance(of, Mapping) else list(of)
    if not blocks or not all(isinstance(block, Mapping) and block for block in blocks):
        raise LinftError("a grid is a mapping from settings to values, such as learning_rate: [0.1, 0.01], or a list")
    parsed = tuple({name: _values(name, values) for name, values in block.items()} for block in blocks)
    return Grid("own", parsed, trials, seed)


def varied(words: Iterable[str]) -> dict[str, str]:
    """A block from words such as learning_rate=0.1,0.01 and weight_decay=log:1e-5:1e-2.

    Example:
      >>> varied(["momentum=0,0.9", "weight_decay=log:1e-5:1e-2"])
      {'momentum': '0,0.9', 'weight_decay': 'log:1e-5:1e-2'}
    """
    block: dict[str, str] = {}
    for word in words:
        name, equals, values = word.partition("=")
        if not (name and equals and values):
            raise LinftError(f"{name!r} is no setting with values; give some such as learning_rate=0.1,0.01")
        name = name.replace("-", "_")
        if name in block:
            raise LinftError(
                f"{name} is given twice; give all its values at once, such as {name}={block[name]},{values}"
            )
        block[name] = values
    return block


def _read(path: Path) -> Any:
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = getattr(error, "strerror", None) or error
        raise LinftError(
            f"no grid {str(path)!r} ({reason}); choose among {', '.join(GRIDS)}, or give a YAML file of settings"
        ) from None


def _values(name: str, given: Any) -> tuple | Drawn:
    if name not in TYPES:
        raise LinftError(f"no setting {name!r} that a grid could vary; choose among {', '.join(TYPES)}")
    if isinstance(given, Drawn):
        return given
    if isinstance(given, str):
        scale, *bounds = given.split(":")
        if scale in ("uniform", "log", "int") and len(bounds) == 2:
            low, high = (_typed(name, bound) for bound in bounds)
            if scale != "int" and not isinstance(low, float):
                raise LinftError(f"{name} takes whole numbers; draw from int:{bounds[0]}:{bounds[1]}")
            return Drawn(scale, low, high)
        given = given.split(",")
    values = list(given) if isinstance(given, Sequence | set | np.ndarray) else [given]
    if not values:
        raise LinftError(f"{name} has no values to try; give one or more")
    return tuple(dict.fromkeys(_typed(name, value) for value in values))


def _typed(name: str, value: Any) -> Any:
    """A value, from YAML or the command line, as the setting has it."""
    union = get_origin(TYPES[name]) in (Union, types.UnionType)
    kinds = get_args(TYPES[name]) if union else (TYPES[name],)
    text = str(value).strip()
    if types.NoneType in kinds and text.lower() in ("none", "null"):
        return None
    if bool in kinds and text.lower() in ("true", "false"):
        return text.lower() == "true"
    choices = [choice for kind in kinds if get_origin(kind) is Literal for choice in get_args(kind)]
    if text in choices:
        return text
    if (int in kinds or float in kinds) and not isinstance(value, bool):
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        if float in kinds and math.isfinite(number):
            return number
        if number.is_integer():
            return int(number)
    may = f"one of {', '.join(choices)}" if choices else " or ".join(WORDS[kind] for kind in kinds)
    raise LinftError(f"{name} cannot be {text!r}; give {may}")


@dataclass(frozen=True)
class Point:
    """One point of a sweep."""

    values: Values
    recipe: Recipe
    reinit_groups: int
    """Last layer groups at new random weights."""


def at(values: Values, base: Recipe, depth: LayerSettings, layer_groups: Sequence[str]) -> Point:
    """The point whose other settings are those of a recipe and a depth.

    Raises:
      LinftError: a value that recipe or depth refuse, or settings by depth without layer groups.

    Example:
      >>> point = at({"low_rate": 0.01, "low_groups": 1}, Recipe(learning_rate=0.1), LayerSettings(), ("stem", "head"))
      >>> round(point.recipe.multiplier("stem"), 6), point.reinit_groups
      (0.1, 1)
    """
    of_depth = {name: value for name, value in values.items() if name in OF_DEPTH}
    depth = dataclasses.replace(depth, **of_depth)
    recipe = base.replace(**{name: value for name, value in values.items() if name not in OF_DEPTH})
    if layer_groups:
        recipe = depth.apply(recipe, layer_groups)
    elif depth != LayerSettings():
        raise LinftError("settings by depth need the model's layer groups; pass layer_groups=model.layer_groups")
    return Point(values, recipe, depth.reinit_groups)
