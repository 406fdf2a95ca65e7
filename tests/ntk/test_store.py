"""A stored kernel is the kernel, however often its computation was killed, shared, or begun for another one."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from drawn import make
from filling import cut
from flax import linen as nn

import linft
from linft.core import trees
from linft.core.errors import LinftError
from linft.ntk.tiled import manifest, memory, store
from linft.ntk.tiled.tiles import Work

FILLING = Path(__file__).parents[1] / "support" / "filling.py"
TRAIN = 24  # of the images
SIZE = 5  # images of a tile: the last one has fewer
COUNTS = (1 + np.random.default_rng(0).permutation(100)[:5]).tolist()
KILLED = [(moment, count) for moment, count in zip(["midst", "midst", "after", "before", "midst"], COUNTS, strict=True)]
KILLED.insert(1, ("before", 7 * 3 + 5))  # all summands of a tile are there, and not yet their sum
MOMENTS = [pytest.param(*killed, marks=[pytest.mark.slow] * (i > 1)) for i, killed in enumerate(KILLED)]


class Small(nn.Module):
    """One convolution and a head."""

    @nn.compact
    def __call__(self, x, train: bool = False):
        x = nn.relu(nn.Conv(4, (3, 3), name="conv")(x))
        return nn.Dense(3, name="head")(x.mean((1, 2)))


@pytest.fixture(scope="module")
def model() -> linft.Model:
    return make(Small())


@pytest.fixture(scope="module")
def x(model, digits) -> jax.Array:
    return model.preprocess(np.concatenate([digits.x_train, digits.x_test]))


@pytest.fixture(scope="module")
def whole_kernel(model, x) -> dict[str, np.ndarray]:
    """Of all digits, a block for the kernels and one for the biases of either layer."""
    groups = trees.split_vectors(model.stages)
    return {group: np.asarray(block) for group, block in linft.empirical_ntk(model, x, groups=groups).blocks.items()}


@pytest.fixture(scope="module")
def kernel(whole_kernel) -> dict[str, np.ndarray]:
    """Of the training digits."""
    return {group: block[:TRAIN, :, :TRAIN] for group, block in whole_kernel.items()}


@pytest.fixture
def begun(model, x, kernel, tmp_path) -> Path:
    """A store that was begun, and has no tile yet."""
    begin(tmp_path / "K.zarr", model, x, cut(kernel, SIZE))
    return tmp_path / "K.zarr"


def begin(path: Path, model: linft.Model, x: jax.Array, train: Work, test: Work | None = None, **options) -> None:
    labels = {"conv/kernel": "conv", "conv/bias": "conv/vectors", "head/kernel": "head", "head/bias": "head/vectors"}
    store.begin(path, model, x[:TRAIN], train, x[TRAIN:], test, labels=labels, **{"seed": 0} | options)


def files(path: Path) -> dict[str, bytes]:
    """The content of every file of a store."""
    return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}


def starting(kernel: Path, path: Path, described: Path, moment: str = "none", count: int = 0) -> subprocess.Popen:
    """A process that will fill the store once it gets a line."""
    arguments = [sys.executable, FILLING, kernel, path, described, moment, count]
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    return subprocess.Popen([*map(str, arguments)], **pipes, env=os.environ | {"JAX_PLATFORMS": "cpu"}, text=True)


@pytest.fixture(scope="module")
def root(model, x, kernel, tmp_path_factory) -> Path:
    """The kernel, the manifest, and a store that was filled without interruption."""
    path = tmp_path_factory.mktemp("stores")
    np.savez(path / "kernel.npz", **kernel)
    begin(path / "whole.zarr", model, x, cut(kernel, SIZE))
    store.fill(path / "whole.zarr", "train", cut(kernel, SIZE))
    (path / "manifest.json").write_text(json.dumps(manifest.read(path / "whole.zarr")))
    return path


@pytest.mark.parametrize("names", [("train",), ("train", "test")])
@pytest.mark.parametrize("outputs", ["full", "trace"])
def test_what_is_loaded_is_the_kernel(outputs, names, model, x, whole_kernel, tmp_path):
    images = {"train": slice(0, TRAIN), "test": slice(TRAIN, None)}
    works, kernels = {}, {}
    for name in names:
        blocks = {group: jnp.asarray(block[images[name], :, :TRAIN]) for group, block in whole_kernel.items()}
        full = linft.Kernel(blocks, "full")
        kernels[name] = full if outputs == "full" else linft.Kernel(full.traces(), "trace")
        works[name] = cut(jax.tree.map(np.asarray, kernels[name].blocks), SIZE, symmetric=name == "train")
    begin(tmp_path, model, x, *works.values())
    for name in names:
        store.fill(tmp_path, name, works[name])
    square, rectangle = store.load(tmp_path)
    assert list(square.blocks) == list(whole_kernel)
    jax.tree.map(np.testing.assert_array_equal, square, kernels["train"])
    assert (
        rectangle is None if len(names) == 1 else jax.tree.all(jax.tree.map(np.array_equal, rectangle, kernels["test"]))
    )


def test_every_directory_is_a_zarr_group_or_array(root, kernel):
    whole = root / "whole.zarr"
    types = {str(file.parent.relative_to(whole)): json.loads(file.read_text()) for file in whole.rglob("zarr.json")}
    assert set(types) == {str(path.relative_to(whole)) for path in [whole, *whole.rglob("*")] if path.is_dir()}
    assert {name for name, found in types.items() if found["node_type"] == "group"} == {".", "train"}
    assert len(types) == 2 + len(kernel)


@pytest.mark.parametrize(("moment", "count"), MOMENTS)
def test_a_killed_fill_goes_on_to_the_same_files(moment, count, root, kernel, tmp_path):
    path = tmp_path / "K.zarr"
    process = starting(root / "kernel.npz", path, root / "manifest.json", moment, count)
    assert process.communicate("\n") == ("ready\n", "")
    assert process.returncode == -signal.SIGKILL
    assert files(path).keys() != files(root / "whole.zarr").keys()
    manifest.claim(path, json.loads((root / "manifest.json").read_text()))
    given = []
    store.fill(path, "train", cut(kernel, SIZE, given=given))
    assert len(given) < 6 * 15  # not everything anew
    assert files(path) == files(root / "whole.zarr")


def test_two_processes_fill_one_store(root, tmp_path):
    path = tmp_path / "K.zarr"
    processes = [starting(root / "kernel.npz", path, root / "manifest.json") for _ in range(2)]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process, order in zip(processes, ("forwards\n", "backwards\n"), strict=True):
        process.stdin.write(order)
        process.stdin.flush()
    for process in processes:
        assert process.communicate() == ("", "")
        assert process.returncode == 0
    assert files(path) == files(root / "whole.zarr")


def test_hosts_share_the_rows_of_tiles(begun, root, kernel):
    for number, rows in enumerate([{0, 2, 4}, {1, 3}]):
        given = []
        store.fill(begun, "train", cut(kernel, SIZE, given=given), share=(number, 2))
        assert {i for _, _, i, _ in given} == rows
    assert files(begun) == files(root / "whole.zarr")


def test_only_what_is_missing_is_asked_for_and_told(begun, root, kernel):
    told, given = [], []
    shutil.copytree(root / "whole.zarr", begun, dirs_exist_ok=True)
    (begun / "train" / "conv" / "c.3.0.1.0").unlink()
    (begun / "train" / "head%2Fvectors" / "c.0.0.4.0").unlink()  # above the diagonal: computed with its mirror
    work = cut(kernel, SIZE, given=given)
    store.fill(begun, "train", work, lambda done, total: told.append((done, total)))
    assert sorted(given) == [("conv", 0, 3, 1), ("head/vectors", 0, 4, 0)]
    assert told == [(88, 90), (89, 90), (90, 90)]
    assert files(begun) == files(root / "whole.zarr")


OTHERS = {
    "model": "model ",
    "images": "train images ",
    "seed": "seed (0, now 1)",
    "tile": "train tile ([5, 3, 5, 3], now [6, 3, 6, 3])",
    "groups": "groups, train parts",
    "outputs": 'outputs ("full", now "trace"), train shape',
    "numpy": 'version of numpy ("',
    "option": 'precision (null, now "bfloat16")',
}


@pytest.mark.parametrize("other", OTHERS)
def test_another_kernel_is_refused_by_what_differs(other, begun, model, x, kernel, monkeypatch):
    size, options = SIZE, {}
    if other == "model":
        model = model.replace(params=jax.tree.map(lambda leaf: leaf * 2, model.params))
    elif other == "images":
        x = x.at[0, 0, 0, 0].add(1e-3)
    elif other == "seed":
        options = {"seed": 1}
    elif other == "tile":
        size = 6
    elif other == "groups":
        kernel = dict(list(kernel.items())[:3])
    elif other == "outputs":
        kernel = {group: block[:, 0, :, 0] for group, block in kernel.items()}
    elif other == "numpy":
        real = manifest.version
        monkeypatch.setattr(manifest, "version", lambda name: "9.9" if name == "numpy" else real(name))
    else:
        options = {"precision": "bfloat16"}
    with pytest.raises(LinftError) as refusal:
        begin(begun, model, x, cut(kernel, size), **options)
    assert f"K.zarr holds a kernel with another {OTHERS[other]}" in str(refusal.value)
    assert str(refusal.value).endswith("; give what it was begun with, or another output")


def test_tiles_that_the_manifest_does_not_have_are_refused(begun, kernel):
    for name, size in (("train", 6), ("test", SIZE)):
        with pytest.raises(LinftError, match=f"has no kernel {name} of such tiles; give the options"):
            store.fill(begun, name, cut(kernel, size))


def test_an_unfinished_store_is_not_loaded(begun, root):
    shutil.copytree(root / "whole.zarr", begun, dirs_exist_ok=True)
    for tile in ("c.0.0.0.0", "c.4.0.1.0"):
        (begun / "train" / "conv" / tile).unlink()
    with pytest.raises(LinftError, match=r"K.zarr lacks 2 of 100 tiles; finish it by its `linft kernel`"):
        store.load(begun)


def damaged(begun: Path, root: Path, damage) -> Path:
    """A copy of the whole store with one damaged file."""
    shutil.copytree(root / "whole.zarr", begun, dirs_exist_ok=True)
    file = begun / "train" / "conv" / "c.2.0.1.0"
    file.write_bytes(damage(file.read_bytes()))
    return file


def test_a_truncated_file_is_computed_anew(begun, root, kernel):
    damaged(begun, root, lambda content: content[:-7])
    with pytest.raises(LinftError, match="lacks 1 of 100 tiles"):
        store.load(begun)
    given = []
    store.fill(begun, "train", cut(kernel, SIZE, given=given))
    assert given == [("conv", 0, 2, 1)]
    assert files(begun) == files(root / "whole.zarr")


def test_a_damaged_file_is_refused_by_name(begun, root, kernel):
    file = damaged(begun, root, lambda content: content[:20] + bytes([content[20] ^ 1]) + content[21:])
    with pytest.raises(LinftError, match=r"conv/c.2.0.1.0 is damaged or cannot be read \(.*\); delete it and resume"):
        store.load(begun)
    file.unlink()
    store.fill(begun, "train", cut(kernel, SIZE))
    assert files(begun) == files(root / "whole.zarr")


def test_a_full_disk_is_one_line_and_keeps_what_is_finished(begun, root, kernel):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fills_up(done: int, total: int) -> None:
        if done == 12:
            resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))

    try:
        with pytest.raises(LinftError, match=r"cannot write .*K.zarr \(File too large\); .* --resume goes on"):
            store.fill(begun, "train", cut(kernel, SIZE), fills_up)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    given = []
    store.fill(begun, "train", cut(kernel, SIZE, given=given))
    assert len(given) == 90 - 12
    assert files(begun) == files(root / "whole.zarr")


def test_values_that_are_not_finite_are_refused(begun, kernel):
    bad = {
        group: np.where(np.arange(TRAIN)[:, None, None, None] == 13, np.nan, block) for group, block in kernel.items()
    }
    bad = {group: block.astype(np.float32) for group, block in bad.items()}
    with pytest.raises(LinftError, match=r"the kernel train of conv is not finite at images 10 to 14; check"):
        store.fill(begun, "train", cut(bad, SIZE))


def test_a_kernel_larger_than_memory_is_not_read(root, monkeypatch):
    monkeypatch.setattr(memory, "free_bytes", lambda: 1000)
    with pytest.raises(LinftError, match="read parts of it with a reader of zarr"):
        store.load(root / "whole.zarr")


@pytest.mark.parametrize("content", [None, "{", '{"zarr_format": 3}', '["linft"]'])
def test_what_is_no_store_is_refused(content, tmp_path):
    if content is not None:
        (tmp_path / "zarr.json").write_text(content)
    with pytest.raises(LinftError, match=r"is not a kernel store \(.*\); give one that `linft kernel` made"):
        store.load(tmp_path)


def test_a_place_that_cannot_be_written_is_refused(model, x, kernel, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(LinftError, match=r"cannot write .*K.zarr \(Not a directory\)"):
        begin(tmp_path / "file" / "K.zarr", model, x, cut(kernel, SIZE))


def test_a_lock_that_a_killed_process_left_is_taken_over(begun, root, kernel):
    (begun / "train" / "conv").mkdir(parents=True)
    (begun / "train" / "conv" / "c.0.0.0.0.__lock").write_bytes(bytes(100))
    store.fill(begun, "train", cut(kernel, SIZE))
    assert files(begun) == files(root / "whole.zarr")
