"""Which residual network a file holds, whatever the spelling of its keys."""

import re
from collections import Counter
from collections.abc import Iterable
from typing import Any

RESNET_V2 = {(3, 4, 6, 3): "resnetv2_50", (3, 4, 23, 3): "resnetv2_101"}
BIT = {(3, 4, 6, 3): "resnetv2_50x1_bit", (3, 4, 23, 3): "resnetv2_101x1_bit"}


def blocks_of(keys: Iterable[str], block: str) -> tuple[int, ...]:
    """The number of blocks in each stage; the pattern's groups are the stage and the block."""
    found = {m.groups() for key in keys if (m := re.match(block, key))}
    counts = Counter(stage for stage, _ in found)
    return tuple(counts[stage] for stage in sorted(counts))


def named(names: dict[tuple[int, ...], str], blocks: tuple[int, ...], width: int) -> tuple[str, dict[str, Any]]:
    """The registry's name by the blocks of each stage, and what must be said beside it.

    A depth or width that has no name is told by options of the first network of its kind.
    """
    name = names.get(blocks, next(iter(names.values())))
    return name, ({} if blocks in names else {"blocks": blocks}) | ({} if width == 64 else {"width": width})
