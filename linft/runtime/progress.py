"""The callbacks by which long work tells how far it is; each is called in the thread that works."""

from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""Called with (what is being done, how much of it is done, how much there is in all)."""

Count = Callable[[int, int], None]
"""Called with (done, total) by work of one kind: examples, tiles, products, runs."""
