"""Data parallelism: a mesh of devices, over one host or many, and how arrays lie on it.

Weights are on every device; the rows of a batch are divided. XLA adds the sums over devices, so the
same program computes the same curve on any number of them.
"""

from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from linft.core.errors import LinftError
from linft.core.trees import Tree

ROWS = "rows"


def mesh(devices: int | None = None) -> Mesh:
    """A mesh over so many devices; by default over all, of all hosts.

    Example:
      >>> mesh(1).shape
      OrderedDict({'rows': 1})
    """
    count = jax.device_count()
    if devices is not None and not 1 <= devices <= count:
        raise LinftError(f"{devices} devices were asked for; there are {count}")
    return jax.make_mesh((devices or count,), (ROWS,), axis_types=(AxisType.Auto,), devices=jax.devices()[:devices])


def own_rows(batch: int) -> slice:
    """The rows of a batch that this host reads: an equal part, in the order of the hosts."""
    hosts, host = jax.process_count(), jax.process_index()
    if batch % hosts:
        raise LinftError(f"a batch of {batch} cannot be divided among {hosts} hosts; choose a multiple")
    return slice(host * batch // hosts, (host + 1) * batch // hosts)


def replicate(on: Mesh | None, tree: Tree) -> Tree:
    """The tree on every device; every host has the whole of it."""
    if on is None:
        return jax.tree.map(jax.numpy.asarray, tree)
    sharding = NamedSharding(on, PartitionSpec())
    return jax.tree.map(lambda x: _place(np.asarray(x), sharding), tree)


def divide_rows(on: Mesh | None, tree: Tree, axis: int = 1) -> Tree:
    """The tree with one axis divided among the devices; every host has its own rows of it only."""
    if on is None:
        return tree
    sharding = NamedSharding(on, PartitionSpec(*[None] * axis, ROWS))
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, np.asarray(x)), tree)


def constrain_rows(on: Mesh | None, x: Any) -> Any:
    """Under jit: the first axis divided among the devices, where it can be."""
    if on is None or len(x) % on.size:
        return x
    return jax.lax.with_sharding_constraint(x, NamedSharding(on, PartitionSpec(ROWS)))


def everywhere(on: Mesh | None, x: Any) -> Any:
    """Under jit: the whole array on every device, so that every host can read it."""
    return x if on is None else jax.lax.with_sharding_constraint(x, NamedSharding(on, PartitionSpec()))


def any_host(here: bool) -> bool:
    """Whether it is so on any host; all of them must ask."""
    if jax.process_count() == 1:
        return here
    from jax.experimental import multihost_utils

    return bool(np.any(multihost_utils.process_allgather(np.array(here))))


def _place(x: np.ndarray, sharding: NamedSharding) -> jax.Array:
    return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])
