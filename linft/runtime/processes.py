"""Work shared among processes of this machine, which end with it."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from joblib import Parallel, delayed
from joblib.externals.loky import get_reusable_executor


def unordered(function: Callable[..., Any], calls: Iterable[tuple], jobs: int) -> Iterator[Any]:
    """function(*arguments) of every call, as they are done; with one job in this process and in order.

    Example:
      >>> list(unordered(divmod, [(7, 2), (9, 4)], jobs=1))
      [(3, 1), (2, 1)]
    """
    if jobs == 1:
        yield from (function(*arguments) for arguments in calls)
        return
    try:
        yield from Parallel(jobs, return_as="generator_unordered")(delayed(function)(*arguments) for arguments in calls)
    finally:  # or they would wait for minutes for more, and hold what they compiled
        get_reusable_executor(reuse=True).shutdown(wait=True)  # pyright: ignore
