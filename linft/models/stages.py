"""Layer groups of networks in stages: the stem, every block, the head."""

from collections.abc import Sequence

from linft.core.trees import Groups


def in_stages(*stages: Sequence[str], closing: str | None = None) -> Groups:
    """Stem and head, and between them the blocks of every stage, by the names of their modules.

    Args:
      stages: names of blocks, stage after stage.
      closing: a layer after the last block, which counts with it.

    Example:
      >>> for group in in_stages(["block0"], numbered("block", 2), closing="norm").items():
      ...     print(*group)
      stem ('stem',)
      stage1.block0 ('stage1/block0',)
      stage2.block0 ('stage2/block0',)
      stage2.block1 ('stage2/block1', 'stage2/norm')
      head ('head',)
    """
    names = [f"stage{i}.{block}" for i, blocks in enumerate(stages, 1) for block in blocks]
    groups: dict[str, tuple[str, ...]] = {name: (name.replace(".", "/"),) for name in ("stem", *names, "head")}
    if closing is not None:
        groups[names[-1]] += (f"stage{len(stages)}/{closing}",)
    return groups


def numbered(name: str, count: int) -> list[str]:
    """Names of modules, from 0 on."""
    return [f"{name}{i}" for i in range(count)]
