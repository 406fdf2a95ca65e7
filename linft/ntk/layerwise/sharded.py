"""The layerwise engine on many devices, of one host or of several.

Images are divided for their Jacobians, numbers for products.

Every device computes the Jacobians of its own images and of no others, without a word to the rest. Then
the devices exchange (all-to-all): each keeps a share of the parameters' numbers, of all images. So each
number of a Jacobian crosses at most one link and is held once. A product of two blocks of images is a
sum over numbers, of which each device adds up its own; a tile is the sum over devices.

What XLA's partitioner would make of the backward pass, vmapped over outputs, is not left to it: it
gathers the batch, whose axis is merged with that of the outputs.
"""

from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import jaxpr_as_fun
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float

from linft.core import parallel
from linft.core.base import Model, Outputs
from linft.core.parallel import ROWS
from linft.ntk.layerwise import gram, jacobians
from linft.ntk.layerwise.follow import Plan
from linft.ntk.layerwise.jacobians import Wanted
from linft.ntk.primitives.derivatives import Derivatives
from linft.ntk.rows import Rows

IMAGES = PartitionSpec(ROWS)
LAST = PartitionSpec(None, None, ROWS)
SECOND = PartitionSpec(None, ROWS)
HELD = (LAST, SECOND, LAST, SECOND)  # fields of Rows


def rows(
    on: Mesh,
    model: Model,
    plan: Plan,
    labels: Mapping[str, str],
    cotangents: Float[Array, "k c"],
    outputs: Outputs,
    sketch: tuple[int, int] | None = None,
) -> Callable[[Float[Array, "b ..."]], Rows]:
    """As `layerwise.rows`, of batches that the mesh's devices divide; what is held is divided by its numbers.

    Every host gives the same batch. On CPU a host gets its own share of the numbers, as NumPy has it.
    """
    settled = jacobians.settling(model, plan, labels, cotangents, outputs, sketch)
    everywhere = parallel.replicate(on, (model.params, model.batch_stats, cotangents))

    def of_batch(x: Array) -> Rows:
        chosen, offsets, _ = settled(x[: len(x) // on.size])  # the same images on every host
        params, batch_stats, towards = everywhere
        found = program(on, model.forward, chosen)(params, batch_stats, images(on, x), towards, offsets)
        return Rows(*(jax.tree.map(own_share, found) if jax.default_backend() == "cpu" else found))

    return of_batch


def images(on: Mesh, x: Array) -> Array:
    """A batch, which every host has, divided among the devices."""
    whole = np.asarray(x)
    return jax.make_array_from_callback(whole.shape, NamedSharding(on, IMAGES), lambda index: whole[index])


@lru_cache(maxsize=32)
def program(on: Mesh, forward: Callable, wanted: Wanted | Derivatives) -> Callable:
    """(params, batch_stats, x [b …], E [k c], offsets) -> the fields of Rows, jitted; the devices divide b."""
    alone = jacobians.program(forward, wanted)
    everywhere = PartitionSpec()

    @jax.jit
    def of_all(*args: Any) -> tuple:
        params, batch_stats, x, *others = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), args)
        part = jax.ShapeDtypeStruct((x.shape[0] // on.size, *x.shape[1:]), x.dtype)
        # differentiated without the mesh: under it JAX 0.7 has no vmap for a convolution's gradient
        derivatives, (shapes, _) = jax.make_jaxpr(alone, return_shape=True)(params, batch_stats, part, *others)
        structure = jax.tree.structure(shapes)

        def of_device(*args: Any) -> tuple:
            found = jaxpr_as_fun(derivatives)(*jax.tree.leaves(args))
            return exchange(jax.tree.unflatten(structure, found[: structure.num_leaves]), on.size)

        specs = (everywhere, everywhere, IMAGES, everywhere, everywhere)
        return jax.shard_map(of_device, mesh=on, in_specs=specs, out_specs=HELD, check_vma=False)(*args)

    return of_all


def exchange(rows: Rows, devices: int) -> tuple:
    """On each device, field by field, from all numbers of its images to its share of the numbers of all images."""
    last = partial(_traded, axis=2, devices=devices)
    second = partial(_traded, axis=1, devices=devices)
    return (
        jax.tree.map(last, rows.dense),
        {group: [(second(h), _cut(v, devices)) for h, v in pairs] for group, pairs in rows.factored.items()},
        jax.tree.map(last, rows.sketched),
        jax.tree.map(second, rows.head),
    )


def _traded(array: Array, axis: int, devices: int) -> Array:
    return jax.lax.all_to_all(_filled(array, axis, devices), ROWS, axis, 0, tiled=True)


def _cut(v: Array, devices: int) -> Array:
    """The device's own channels."""
    whole = _filled(v, 1, devices)
    size = whole.shape[1] // devices
    return jax.lax.dynamic_slice_in_dim(whole, jax.lax.axis_index(ROWS) * size, size, 1)


def _filled(array: Array, axis: int, devices: int) -> Array:
    """With zeros, which add nothing to a product, up to a multiple of the devices."""
    pads = [(0, 0)] * array.ndim
    pads[axis] = (0, -array.shape[axis] % devices)
    return jnp.pad(array, pads)


@lru_cache(maxsize=32)
def product(on: Mesh) -> gram.Product:
    """As `gram.product`, of arrays divided by their numbers: each device adds up its own, and all add their sums."""

    def of_device(full: bool, dtype: Any, x: Array, y: Array) -> Array:
        return jax.lax.psum(gram.product(x, y, full, dtype), ROWS)

    @partial(jax.jit, static_argnums=(2, 3))
    def of_all(x: Array, y: Array, full: bool, dtype: Any) -> Array:
        own = partial(of_device, full, dtype)
        return jax.shard_map(own, mesh=on, in_specs=(LAST, LAST), out_specs=PartitionSpec(), check_vma=False)(x, y)

    return of_all


def own_share(array: jax.Array) -> np.ndarray:
    """What this host's devices have of an array divided along one axis, side by side."""
    shards = sorted(array.addressable_shards, key=lambda shard: [s.start or 0 for s in shard.index])
    if len(shards) == 1:  # of a mesh of one device no axis bears a name
        return np.asarray(shards[0].data)
    (axis,) = [axis for axis, name in enumerate(array.sharding.spec) if name]  # type: ignore[attr-defined]
    return np.concatenate([np.asarray(shard.data) for shard in shards], axis)


def memories(on: Mesh | None) -> int:
    """Among how many memories, of devices or on CPU of hosts, what is held is divided."""
    if on is None:
        return 1
    return len({device.process_index for device in on.devices.flat}) if jax.default_backend() == "cpu" else on.size
