"""A kernel that many devices and hosts share is that of one device, whichever host is killed on the way."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import pytest
from drawn import make
from sharing import Uneven

import linft
from linft.cli.kernel import ComputeKernel, Machine
from linft.cli.options import TaskOptions
from linft.core import parallel, trees
from linft.core.errors import LinftError
from linft.ntk.empirical import train_test_ntk
from linft.ntk.tiled import store
from linft.runtime import multihost

SHARING = Path(__file__).parents[1] / "support" / "sharing.py"
TRAIN, TEST, TILE = 13, 5, 8
BLOCKS = 3  # two of training images and one of test images
PARAMETERS = ("--task", "digits", "--train-images", TRAIN, "--test-images", TEST, "--tile", TILE, "--split-vectors")


class Ended(NamedTuple):
    """A process."""

    code: int
    out: str
    err: str

    @property
    def images(self) -> int:
        """Of how many the Jacobians were computed, those that pad a block among them."""
        return int(re.findall(r"images: (\d+)", self.out)[-1])


def compute(path: Path, *options, devices: int, processes: int = 1, kill: tuple[int, int] = (0, 0), **environment):
    """Call `linft kernel` once on each host; kill: (host, the writing that it does not do)."""
    if processes > 1:
        options = (*options, "--distributed")
        environment |= {
            "SLURM_JOB_ID": str(os.getpid() + sum(map(ord, path.parent.name))),  # of which JAX makes the port
            "SLURM_STEP_NODELIST": "localhost",
            "SLURM_NTASKS": str(processes),
        }
    running = [
        subprocess.Popen(
            [sys.executable, str(SHARING), str(devices), str(rank), str(kill[1] if rank == kill[0] else 0)]
            + [str(option) for option in (*PARAMETERS, "--output", path, *options)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=os.environ | environment,
            text=True,
        )
        for rank in range(processes)
    ]
    ended = [(process.communicate(timeout=240), process.returncode) for process in running]
    return [Ended(code, *texts) for texts, code in ended]


@pytest.fixture(scope="module")
def alone() -> dict[str, tuple[linft.Kernel, linft.Kernel]]:
    """By outputs, on one device."""
    model, task = make(Uneven()), linft.load_task("digits").subset(TRAIN, TEST, 0)
    groups = trees.split_vectors(model.stages)
    x_train, x_test = model.preprocess(task.x_train), model.preprocess(task.x_test)
    return {
        outputs: train_test_ntk(model, x_train, x_test, outputs=outputs, groups=groups) for outputs in ("full", "trace")
    }


def assert_same(path: Path, expected: tuple[linft.Kernel, linft.Kernel]) -> None:
    for found, kernel in zip(store.load(path), expected, strict=True):
        assert list(found.blocks) == list(kernel.blocks)
        for group, block in kernel.blocks.items():
            np.testing.assert_allclose(found.blocks[group], block, rtol=1e-5, atol=1e-6 * abs(block).max())


def files(path: Path) -> dict[str, bytes]:
    """The content of every tile of a store."""
    return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("c.*")}


@pytest.mark.parametrize(
    ("outputs", "environment"),
    [
        ("full", {}),
        ("trace", {"LINFT_TEST_ACCELERATOR": "1"}),
        pytest.param("full", {"LINFT_TEST_ACCELERATOR": "1"}, marks=pytest.mark.slow),
    ],
)
def test_eight_devices_compute_the_kernel_of_one(outputs, environment, alone, tmp_path):
    (ended,) = compute(tmp_path / "K.zarr", "--outputs", outputs, devices=8, **environment)
    assert (ended.code, ended.err) == (0, "")
    assert "8 devices, 1 hosts" in ended.out
    assert ended.images == BLOCKS * TILE
    assert_same(tmp_path / "K.zarr", alone[outputs])


def test_a_mesh_of_one_device_is_that_device(alone):
    model, task = make(Uneven()), linft.load_task("digits").subset(TRAIN, TEST, 0)
    groups = trees.split_vectors(model.layer_groups)
    kernel = linft.empirical_ntk(
        model, model.preprocess(task.x_train), outputs="trace", groups=groups, mesh=parallel.mesh(1)
    )
    for group, block in alone["trace"][0].blocks.items():
        np.testing.assert_allclose(kernel.blocks[group], block, rtol=1e-5, atol=1e-6 * abs(block).max())


@pytest.fixture(scope="module")
def shared_by_two(tmp_path_factory) -> tuple[Path, list[Ended]]:
    """A kernel that two hosts of two devices computed."""
    path = tmp_path_factory.mktemp("two") / "K.zarr"
    return path, compute(path, devices=2, processes=2)


def test_two_hosts_compute_the_kernel_of_one_and_each_jacobian_once(shared_by_two, alone):
    path, ended = shared_by_two
    assert [process.code for process in ended] == [0, 0], ended
    assert [process.images for process in ended] == [BLOCKS * TILE // 2] * 2
    assert "Kernel: " in ended[0].out and "Kernel: " not in ended[1].out
    assert_same(path, alone["full"])


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_host_ends_the_other_in_one_line_and_both_go_on(victim, shared_by_two, tmp_path):
    path = tmp_path / "K.zarr"
    ended = compute(path, devices=2, processes=2, kill=(victim, 4))
    assert ended[victim].code == -signal.SIGKILL
    other = ended[1 - victim]
    assert other.code == 2, other
    assert "Traceback" not in other.err
    last = other.err.splitlines()[-1]
    assert last.startswith("linft: another host is gone or out of step (")
    assert last.endswith("); finished tiles are kept: start all hosts again with --resume")
    before = files(path)
    assert before and before.keys() < files(shared_by_two[0]).keys()
    ended = compute(path, "--resume", devices=2, processes=2)
    assert [process.code for process in ended] == [0, 0], ended
    assert files(path) == files(shared_by_two[0])
    assert before.items() <= files(path).items()


def test_no_cluster_is_one_line(monkeypatch):
    def fails(**options):
        raise ValueError("coordinator_address should be defined.")

    monkeypatch.setattr(jax.distributed, "initialize", fails)
    with pytest.raises(LinftError, match=r"cannot join the other hosts \(coordinator_address should be defined.\)"):
        multihost.join()


def test_hosts_share_all_of_their_devices(monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(LinftError, match="leave out --devices"):
        ComputeKernel(TaskOptions("digits"), machine=Machine(devices=1)).mesh()


def test_an_error_of_one_host_alone_is_left_as_it_is():
    def fails():
        raise jax.errors.JaxRuntimeError("INTERNAL: a bug")

    with pytest.raises(jax.errors.JaxRuntimeError, match="a bug"):
        multihost.translated(fails)()


PRODUCTS = """
import jax, numpy as np
from linft.core import parallel
from linft.ntk.layerwise import gram, sharded

on = parallel.mesh()
size = 2 * on.size * gram.PIECE * gram.TOGETHER
x = np.random.default_rng(0).normal(size=(3, 2, size)).astype(np.float32)
held = jax.device_put(x, jax.sharding.NamedSharding(on, sharded.LAST))
for full, expected in ((True, "nkp,mlp->nkml"), (False, "nkp,mkp->nm")):
    compiled = sharded.product(on).lower(held, held, full, x.dtype).compile()
    print("gathers", compiled.as_text().count("all-gather"), "adds", compiled.as_text().count("all-reduce(") > 0)
    got = sharded.product(on)(held, held, full, x.dtype)
    np.testing.assert_allclose(got, np.einsum(expected, x, x, dtype=np.float64), rtol=0, atol=1e-5 * size)
"""


def test_devices_add_up_long_products_of_their_own_numbers_and_exchange_sums_only():
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=4", "JAX_PLATFORMS": "cpu"}
    call = [sys.executable, "-c", PRODUCTS]
    done = subprocess.run(call, env=os.environ | flags, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["gathers 0 adds True"] * 2
