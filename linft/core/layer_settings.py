"""Settings by depth: how many of a model's layer groups, from the input up or from the head down."""

from collections.abc import Iterable
from dataclasses import dataclass

from linft.core.errors import LinftError
from linft.core.recipe import Recipe


@dataclass(frozen=True)
class LayerSettings:
    """Which layer groups are new, low, held by L2-SP or frozen (Plested and others 2021, Tables 3 to 6).

    Counts of layer groups: the stem, every block, the head; of Inception v4 those that the paper counts.
    `apply` turns them into the group names of a recipe, where a stage stands for all of its blocks.

    Example:
      >>> groups = ("stem", "stage1.block0", "stage1.block1", "stage2.block0", "head")
      >>> depth = LayerSettings(reinit_groups=2, head_rate=0.01, low_rate=0.01, low_groups=2)
      >>> recipe = depth.apply(Recipe(learning_rate=0.02, l2sp=0.001), groups)
      >>> [recipe.multiplier(g) for g in groups], recipe.l2sp_groups
      ([0.5, 0.5, 1.0, 1.0, 0.5], ('stem', 'stage1'))
    """

    reinit_groups: int = 1
    """Last groups at new random weights: the head, and those reinitialised below it."""
    head_rate: float | None = None
    """Learning rate of the last group; the recipe's if None."""
    low_rate: float | None = None
    """Learning rate of the lowest groups; the recipe's if None."""
    low_groups: int = 0
    """How many groups are low."""
    l2sp_lowest: int | None = None
    """How many of the lowest groups L2-SP holds; None: all that are not new."""
    frozen_lowest: int = 0
    """How many of the lowest groups do not train."""

    def __post_init__(self):
        for name in ("reinit_groups", "low_groups", "l2sp_lowest", "frozen_lowest"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise LinftError(f"{name} is {value}; it must be 0 or more")
        for name in ("head_rate", "low_rate"):
            value = getattr(self, name)
            if value is not None and not value >= 0:
                raise LinftError(f"{name} is {value}; it must be 0 or more")
        if (self.low_rate is None) != (self.low_groups == 0):
            raise LinftError("low_rate and low_groups belong together; give both or neither")

    def apply(self, recipe: Recipe, groups: Iterable[str]) -> Recipe:
        """The recipe with these settings, for layer groups in order from the input to the head.

        Raises:
          LinftError: more groups are asked for than there are, or L2-SP is to hold new ones.
        """
        names = tuple(groups)
        for name in ("reinit_groups", "low_groups", "l2sp_lowest", "frozen_lowest"):
            if (getattr(self, name) or 0) > len(names):
                raise LinftError(f"{name} is {getattr(self, name)}; the model has {len(names)}: {', '.join(names)}")
        transferred = len(names) - self.reinit_groups
        held = transferred if self.l2sp_lowest is None else self.l2sp_lowest
        if held > transferred:
            raise LinftError(
                f"l2sp_lowest is {held}, but only {transferred} layer groups are pretrained; the others are new"
            )
        rates = [(name, self.low_rate) for name in _lowest(names, self.low_groups)] + [(names[-1], self.head_rate)]
        multipliers = tuple((name, rate / recipe.learning_rate) for name, rate in rates if rate is not None)
        return recipe.replace(
            rate_multipliers=multipliers + recipe.rate_multipliers,
            frozen_groups=_lowest(names, self.frozen_lowest) + recipe.frozen_groups,
            l2sp_groups=_lowest(names, held) if recipe.l2sp > 0 else recipe.l2sp_groups,
        )


def _lowest(names: tuple[str, ...], count: int) -> tuple[str, ...]:
    """The lowest layer groups, by stages where all of a stage is among them."""
    cut = {name.partition(".")[0] for name in names[count:]}
    stages = [(name, name.partition(".")[0]) for name in names[:count]]
    return tuple(dict.fromkeys(name if stage in cut else stage for name, stage in stages))
