"""What `--draws` cannot do."""

from collections.abc import Sequence

from linft.core.draws import still
from linft.core.errors import LinftError
from linft.core.recipe import Recipe


def check_draws(recipes: Sequence[Recipe], edge: bool) -> None:
    """Refuse draws of images where there is nothing to draw, or that recipes do not share.

    Example:
      >>> check_draws([Recipe(augmentation="flip"), Recipe(augmentation="flip", batch_size=5)], edge=False)
    """
    kinds = dict.fromkeys(f"augmentation={recipe.augmentation} mixup={recipe.mixup:g}" for recipe in recipes)
    if len(kinds) > 1:
        raise LinftError(f"recipes share their draws, and there are {', '.join(kinds)}; give --draws to one at a time")
    if recipes[0] == still(recipes[0]):
        raise LinftError("leave out --draws: the recipe has neither augmentation nor mixup")
    if edge:
        raise LinftError("leave out --edge, which is of the images as they are, or --draws")
