"""Seconds that an empirical kernel takes, beside neural-tangents and torch.func on the same weights and images.

    python benchmarks/ntk.py [--sizes 64 128] [--rounds 3] [--torch-python PATH] [--output FILE.json]
    python benchmarks/ntk.py --large 2000 --memory 8GiB      # one block of 20,000 × 20,000, and the peak of memory
    python benchmarks/ntk.py --accelerator                   # ResNet-50, 224×224, N=256, on a GPU or TPU

ResNet-20 (width 16) at 32×32 with ten outputs, the full kernel [n c n c]: ours with a block for each
layer group; the package's Jacobian contraction in one piece, and by `nt.batch` at 32; the recipe of
PyTorch's own tutorial (vmap of jacrev, then products). They take turns, so that other work on the
machine falls on all of them; the numbers are the least of the rounds, compiling left out. PyTorch may
live in another Python than JAX. The floor is C backward passes by JAX (weight gradients included) and
half of the Gram's multiplications at the measured rate of the machine's matrix product. Then the cheap
kernels: pseudo against full, and the trace kernel of the last convolution against a forward pass.
"""

import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

CLASSES, SIDE = 10, 32
IN_ONE_PIECE = 256
"""Images up to which the package's Jacobians are held whole."""
LAST = "stage3/block2/conv2"
BATCHED = "nt.batch of 32"
TORCH_SERVER = "torch-server"
"""The word by which this file, in PyTorch's own Python, is told to serve."""


@dataclass(frozen=True)
class Options:
    """What is measured."""

    sizes: tuple[int, ...] = (64, 128)
    """Images of the kernels that are held against the peers'."""
    rounds: int = 3
    torch_python: str | None = None
    """A Python that has torch; without it there is no torch.func."""
    large: int | None = None
    """Images of one block within the memory, in place of the comparison."""
    memory: str = "8GiB"
    accelerator: bool = False
    """ResNet-50 on a GPU or TPU, in place of the comparison."""
    output: Path | None = None
    """File for the numbers, as JSON."""


def images(n: int, side: int) -> np.ndarray:
    """Smooth at random: speed does not depend on what is in them."""
    return np.random.default_rng(0).normal(size=(n, side, side, 3)).astype(np.float32)


def timed(run: Callable[[], Any]) -> tuple[float, Any]:
    begin = time.perf_counter()
    found = run()
    return time.perf_counter() - begin, found


def seconds(run: Callable[[], Any]) -> float:
    return timed(run)[0]


def network() -> Any:
    import jax

    from linft.models import create

    return create("cifar_resnet20", CLASSES, jax.random.key(0))


def contenders(model: Any, n: int) -> dict[str, Callable[[np.ndarray], np.ndarray]]:
    """Every kernel of JAX's as a function of n images, [n c n c]."""
    import jax

    from linft.ntk import neural_tangents_compat
    from linft.ntk.empirical import empirical_ntk

    nt = neural_tangents_compat.load()

    def of_package(x1: Any, x2: Any, params: Any) -> Any:
        return nt.empirical_ntk_fn(
            lambda p, x: model.forward(p, model.batch_stats, x)[0],
            trace_axes=(),
            vmap_axes=0,
            implementation=nt.NtkImplementation.JACOBIAN_CONTRACTION,
        )(x1, x2, params)

    whole, batched = jax.jit(of_package, static_argnums=1), nt.batch(of_package, batch_size=32, store_on_device=False)
    every: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "linft": lambda x: np.asarray(empirical_ntk(model, jax.device_put(x)).total())
    }
    if n <= IN_ONE_PIECE:
        every["neural-tangents"] = lambda x: np.asarray(whole(x, None, model.params)).swapaxes(1, 2)
    every[BATCHED] = lambda x: np.asarray(batched(x, None, model.params)).swapaxes(1, 2)
    return every


def floor(model: Any, n: int) -> dict[str, float]:
    """Seconds of C backward passes over the images, and of half of the Gram's multiplications."""
    import jax
    import jax.numpy as jnp
    from scipy.linalg.blas import sgemm

    x = jnp.asarray(images(n, SIDE))

    @jax.jit
    def backward(params: Any) -> Any:
        _, pull = jax.vjp(lambda p: model.forward(p, model.batch_stats, x)[0], params)
        each = jnp.broadcast_to(jnp.eye(CLASSES)[:, None], (CLASSES, n, CLASSES))
        return jax.vmap(lambda e: pull(e)[0])(each)

    jax.block_until_ready(backward(model.params))
    passes = min(seconds(lambda: jax.block_until_ready(backward(model.params))) for _ in range(3))
    rows = np.random.default_rng(0).normal(size=(1280, 36864)).astype(np.float32)
    sgemm(1.0, rows.T, rows.T, trans_a=1)
    spent = min(seconds(lambda: sgemm(1.0, rows.T, rows.T, trans_a=1)) for _ in range(3))
    rate = 2 * len(rows) ** 2 * rows.shape[1] / spent
    parameters = sum(leaf.size for leaf in jax.tree.leaves(model.params))
    return {
        "matrix rate, GFLOP/s": rate / 1e9,
        "C backward passes": passes,
        "half the Gram": (n * CLASSES) ** 2 * parameters / rate,
    }


def cheap(model: Any, n: int, rounds: int) -> dict[str, float]:
    """Seconds of the kernels that need not C whole backward passes, and of a plain forward pass."""
    import jax
    import jax.numpy as jnp

    from linft.ntk.empirical import empirical_ntk
    from linft.ntk.layerwise.last_convolution import last_convolution_gradients

    x = jnp.asarray(images(n, SIDE))
    forward, near = jax.jit(lambda p, x: model.forward(p, model.batch_stats, x)[0]), last_convolution_gradients(model)
    parts = [x[i : i + 64] for i in range(0, n, 64)]
    runs = {
        "forward pass": lambda: jax.block_until_ready([forward(model.params, part) for part in parts]),
        "trace of the last convolution": lambda: product([near(part).gradients for part in parts]),
        "the same by the engine, checked": lambda: of_layers({f"{LAST}/kernel": "last"}),
        "pseudo": lambda: empirical_ntk(model, x, outputs="pseudo"),
        "full": lambda: empirical_ntk(model, x),
    }

    def product(gradients: list[Any]) -> np.ndarray:
        rows = np.concatenate(gradients)
        return rows @ rows.T  # of an array with itself NumPy computes one half

    def of_layers(labels: dict[str, str]) -> None:
        from linft.ntk.engine import How
        from linft.ntk.tiled.tiles import cut

        list(cut(model, x, None, labels, How(outputs="trace", batch_size=64))[0].tiles(lambda *_: True))

    for run in runs.values():
        run()
    return {name: min(seconds(run) for _ in range(rounds)) for name, run in runs.items()}


def torch_server(weights: str, n: int) -> None:
    """Answers every line of input with the seconds of one kernel, then saves it: run by the Python that has PyTorch."""
    import torch
    from torch.func import functional_call, jacrev, vmap
    from training import torch_network

    net = torch_network("cifar_resnet20").eval()
    arrays = list(np.load(weights).values())
    with torch.no_grad():
        for parameter, array in zip(net.state_dict().values(), _in_torch_order(net, arrays), strict=True):
            parameter.copy_(torch.from_numpy(array))
    params = {k: v.detach() for k, v in net.named_parameters()}
    buffers = dict(net.named_buffers())
    x = torch.from_numpy(images(n, SIDE)).permute(0, 3, 1, 2).contiguous()

    def of_one(params: Any, x: Any) -> Any:
        return functional_call(net, (params, buffers), (x[None],))[0]

    def kernel() -> Any:
        jacobians = vmap(jacrev(of_one), (None, 0))(params, x)
        flat = [j.flatten(2) for j in jacobians.values()]
        return sum(torch.einsum("Naf,Mbf->NaMb", j, j) for j in flat)

    for _ in sys.stdin:
        spent, found = timed(kernel)
        print(spent, flush=True)
    np.save(weights + ".torch.npy", found.numpy())


def _in_torch_order(net: Any, arrays: list[np.ndarray]) -> list[np.ndarray]:
    """Ours come as kernels, scales, biases, means and variances of the layers in call order, then the head."""
    taken = iter(arrays)
    ordered = []
    for name, tensor in net.state_dict().items():
        if name.endswith("num_batches_tracked"):
            ordered.append(np.zeros((), np.int64))
            continue
        array = next(taken)
        array = array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T
        assert array.shape == tuple(tensor.shape), name
        ordered.append(np.ascontiguousarray(array))
    return ordered


def save_weights(model: Any, path: str) -> None:
    from linft.core import trees
    from linft.ntk.layerwise.plan import plan

    ordered = []
    for layer in plan(model, np.zeros((2, SIDE, SIDE, 3), np.float32)):  # pyright: ignore
        own = trees.get(model.params, layer.path)
        if "kernel" in own:
            ordered.append(own["kernel"])
        else:
            stats = trees.get(model.batch_stats, layer.path)
            ordered += [own["scale"], own["bias"], stats["mean"], stats["var"]]
    head = trees.get(model.params, model.head)
    np.savez(path, *(np.asarray(a) for a in [*ordered, head["kernel"], head["bias"]]))


def compare(n: int, rounds: int, torch_python: str | None) -> dict[str, Any]:
    model, x = network(), images(n, SIDE)
    runs = contenders(model, n)
    with tempfile.TemporaryDirectory() as folder:
        weights = f"{folder}/weights.npz"
        save_weights(model, weights)
        server = None
        if torch_python:
            call = [torch_python, __file__, TORCH_SERVER, weights, str(n)]
            server = subprocess.Popen(call, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

        def torch_run() -> float:
            assert server and server.stdin and server.stdout
            server.stdin.write("go\n")
            server.stdin.flush()
            return float(server.stdout.readline())

        for name, run in runs.items():
            run(x[:64] if name == BATCHED else x)  # compiles: of two blocks the same as of many
        kernels: dict[str, np.ndarray] = {}
        times: dict[str, list[float]] = {name: [] for name in runs}
        if server:
            torch_run()
            times["torch.func"] = []
        for _ in range(rounds):
            for name, run in runs.items():
                spent, kernels[name] = timed(partial(run, x))
                times[name].append(spent)
            if server:
                times["torch.func"].append(torch_run())
        if server:
            server.communicate()
            kernels["torch.func"] = np.load(weights + ".torch.npy")
    ours = kernels["linft"]
    least = {name: min(values) for name, values in times.items()}
    at_floor = floor(model, n)
    return {
        "n": n,
        "seconds": least,
        "times ours": {name: value / least["linft"] for name, value in least.items()},
        "difference": {name: float(np.linalg.norm(k - ours) / np.linalg.norm(ours)) for name, k in kernels.items()},
        "floor": at_floor,
        "ours over floor": least["linft"] / (at_floor["C backward passes"] + at_floor["half the Gram"]),
    }


def peak() -> float:
    """GiB of this process at its largest."""
    found = re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) / 2**20


def large(n: int, memory: str) -> None:
    """One block in all, within a budget."""
    import jax.numpy as jnp
    from rich.progress import Progress

    from linft.cli.kernel import to_bytes
    from linft.ntk.empirical import empirical_ntk

    model = network()
    with Progress() as bar:
        task = bar.add_task("Jacobians", total=None)
        begin = time.perf_counter()
        kernel = empirical_ntk(
            model,
            jnp.asarray(images(n, SIDE)),
            groups={"all": tuple(model.params)},
            memory=to_bytes(memory),
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    spent = time.perf_counter() - begin
    print(f"n={n}: {kernel.total().nbytes / 2**30:.2f} GiB in {spent:.0f} s, peak {peak():.2f} GiB of {memory}")


ALL: tuple[Any, ...] = ("trace", "full")


def accelerator(n: int = 256, side: int = 224) -> None:
    """ResNet-50, trace and full, with the share of the device's matrix rate."""
    import jax
    import jax.numpy as jnp

    from linft.core import trees
    from linft.core.preprocessing import Preprocessing
    from linft.models import create
    from linft.ntk.empirical import empirical_ntk
    from linft.ntk.layerwise.plan import plan

    model = create("resnet50", CLASSES, jax.random.key(0), Preprocessing((side, side, 3)))
    x = jnp.asarray(images(n, side))
    a = jnp.ones((8192, 8192))
    multiply = jax.jit(lambda a: a @ a)
    with jax.default_matmul_precision("highest"):
        jax.block_until_ready(multiply(a))
        rate = 2 * 8192**3 / min(seconds(lambda: jax.block_until_ready(multiply(a))) for _ in "123")
    parameters = sum(leaf.size for leaf in jax.tree.leaves(model.params))
    kernels = ((layer, trees.get(model.params, layer.path).get("kernel")) for layer in plan(model, x))
    forward = sum(2 * np.prod(layer.output.shape[:-1]) * kernel.size for layer, kernel in kernels if kernel is not None)

    def kernel(outputs: Any) -> None:
        empirical_ntk(model, x, outputs=outputs).total().block_until_ready()

    kind = jax.devices()[0].device_kind
    print(f"{kind}: {rate / 1e12:.1f} TFLOP/s of float32 products at the highest precision", flush=True)
    for outputs in ALL:
        compute = partial(kernel, outputs)
        first, spent = seconds(compute), seconds(compute)
        gram = n**2 * CLASSES * (CLASSES if outputs == "full" else 1) * parameters  # half of all products
        work = n * forward * (1 + 2 * CLASSES) + gram
        print(
            f"{outputs}: {spent:.1f} s ({first - spent:.0f} s to compile), {work / spent / 1e12:.1f} TFLOP/s, "
            f"{work / spent / rate:.0%} of the rate",
            flush=True,
        )


def main(options: Options) -> None:
    if options.large:
        return large(options.large, options.memory)
    if options.accelerator:
        return accelerator()
    results = []
    for n in options.sizes:
        result = compare(n, options.rounds, options.torch_python)
        results.append(result)
        print(f"n={n}: {result['ours over floor']:.2f} × the floor of " + ", ".join(
            f"{name} {value:.2f}" for name, value in result["floor"].items()
        ))  # fmt: skip
        for name, value in result["seconds"].items():
            times, difference = result["times ours"][name], result["difference"][name]
            print(f"  {name:<18}{value:8.2f} s {times:7.2f} × ours, differs by {difference:.1e}", flush=True)
    n = max(options.sizes)
    spent = cheap(network(), n, options.rounds)
    print(f"cheap kernels, n={n}")
    for name, value in spent.items():
        print(f"  {name:<32}{value:8.3f} s {value / spent['forward pass']:8.2f} × a forward pass")
    if options.output:
        machine = {"cores": os.cpu_count(), "processor": platform.processor(), "jax": version("jax")}
        options.output.write_text(json.dumps({"machine": machine, "sizes": results, "cheap": spent}, indent=1))


if __name__ == "__main__":
    if sys.argv[1:2] == [TORCH_SERVER]:  # where tyro need not be
        torch_server(sys.argv[2], int(sys.argv[3]))
    else:
        import tyro

        main(tyro.cli(Options, description=__doc__))
