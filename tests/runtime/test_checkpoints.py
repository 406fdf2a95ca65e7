"""Whatever happens to a directory of checkpoints, what is read from it is what was written to it."""

import errno
import functools
import logging
import os
import resource
import shutil
import subprocess
import sys
import threading
from collections import namedtuple
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest

from linft.core.errors import LinftError
from linft.runtime import checkpoints
from linft.runtime.checkpoints import snapshot


class State(NamedTuple):
    params: dict
    opt_state: object
    keys: object
    rest: object


@functools.cache
def state(seed: int) -> State:
    """The state of a run, with every kind of leaf that may come."""
    rng = np.random.default_rng(seed)
    params = {"stem": {"kernel": jnp.asarray(rng.normal(size=(3, 4)), jnp.float32)}, "a/b.c": jnp.ones(2, jnp.bfloat16)}
    optimizer = optax.chain(optax.adamw(optax.cosine_decay_schedule(0.1, 9)), optax.trace(0.9), optax.ema(0.9))
    opt_state = jax.tree.map(lambda x: jnp.asarray(np.array(9 * rng.random(x.shape), x.dtype)), optimizer.init(params))
    quiet_nan = np.array([0x7FC01234, 0xFF800000, 0x80000000], np.uint32).view(np.float32)  # a payload, −∞, −0
    keys = (jax.random.key(seed), jax.random.split(jax.random.key(seed, impl="rbg"), 2), jax.random.PRNGKey(seed))
    rest = [quiet_nan, seed, 0.1 + seed, seed > 0, np.float16(seed), rng.random((2, 3)).T, jnp.zeros((0, 3), jnp.int8),
            jnp.array([True, False]), jnp.arange(3, dtype=jnp.uint16) + seed, jnp.array(1j + seed), None]  # fmt: skip
    return State(params, opt_state, keys, rest)


def assert_same(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        assert type(a) is type(b)
        if hasattr(a, "dtype"):
            assert a.dtype == b.dtype and a.shape == b.shape
        if isinstance(a, jax.Array):
            assert a.sharding == b.sharding and a.committed == b.committed
    for a, b in zip(snapshot.take(one).values(), snapshot.take(other).values(), strict=True):
        assert a.tobytes() == b.tobytes()


def steps(directory: Path) -> list[int]:
    return sorted(int(entry.name) for entry in directory.iterdir() if entry.name.isdecimal())


def names(directory: Path) -> set[str]:
    return {entry.name for entry in directory.iterdir()}


SMALL = {"w": np.arange(6.0).reshape(2, 3), "n": 3}


def small(step: int) -> dict:
    return {"w": SMALL["w"] + step, "n": step}


@pytest.fixture
def three(tmp_path) -> Path:
    """A directory with the steps 1, 2 and 3."""
    with checkpoints.open(tmp_path) as saved:
        for step in (1, 2, 3):
            saved.save(step, small(step), {"rows": [step]})
    return tmp_path


def test_what_is_read_is_what_was_written(tmp_path):
    log = {"rows": [{"step": 0, "loss": 0.1 + 0.2, "bad": float("nan")}], "digest": "ü"}
    with checkpoints.open(tmp_path / "new" / "deep") as saved:
        assert saved.restore(state(1)) is None and saved.best(state(1)) is None
        saved.save(5, state(1), log)
        step, found, log_found = saved.restore(state(0))
    assert step == 5 and repr(log_found) == repr(log)
    assert_same(found, state(1))
    with checkpoints.open(tmp_path / "new" / "deep") as opened:  # as another process would
        assert_same(opened.restore(state(0))[1], state(1))


def test_abstract_arrays_say_where_to_put_it(tmp_path):
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    like = {"w": jax.ShapeDtypeStruct((3,), jnp.float32, sharding=device)}
    with checkpoints.open(tmp_path) as saved:
        saved.save(1, {"w": jnp.arange(3.0)}, {})
        found = saved.restore(like)[1]["w"]
    assert found.tolist() == [0, 1, 2] and found.sharding == device and found.committed


def test_other_programs_can_read_the_state(three):
    with ocp.PyTreeCheckpointer() as reader:
        found = reader.restore(three / "3" / "state")
    np.testing.assert_array_equal(found["w"], small(3)["w"])


def test_a_donated_buffer_is_saved_as_it_was(tmp_path, monkeypatch):
    go_on = hold_writes(monkeypatch)
    double = jax.jit(lambda tree: jax.tree.map(lambda x: 2 * x, tree), donate_argnums=0)
    before = {"w": jnp.arange(1000.0)}
    log = {"rows": [1]}
    with checkpoints.open(tmp_path) as saved:
        saved.save(1, before, log)
        after = double(before)
        log["rows"].append(2)
        jax.block_until_ready(after)
        assert before["w"].is_deleted()
        assert steps(tmp_path) == []  # still being written, while training goes on
        go_on.set()
        _, found, log_found = saved.restore(after)
    np.testing.assert_array_equal(found["w"], np.arange(1000.0))
    np.testing.assert_array_equal(after["w"], 2 * np.arange(1000.0))
    assert log_found == {"rows": [1]}


def hold_writes(monkeypatch) -> threading.Event:
    """Let the writing thread wait for an event."""
    go_on, write = threading.Event(), ocp.JsonCheckpointHandler._save_fn

    async def held(self, *args):
        assert threading.current_thread() is not threading.main_thread()
        assert go_on.wait(60)
        await write(self, *args)

    monkeypatch.setattr(ocp.JsonCheckpointHandler, "_save_fn", held)
    return go_on


NAN = float("nan")
KEPT = [
    (1, [None] * 5, [5], None),
    (3, [None] * 5, [3, 4, 5], None),
    (2, [0.1, 0.9, 0.5, 0.9, 0.2], [2, 4, 5], 2),  # the first of equals
    (2, [0.1, None, NAN, 0.05, NAN], [1, 4, 5], 1),
    (2, [-3.0, -2.0, float("inf"), -1.0, None], [4, 5], 4),
]


@pytest.mark.parametrize(("keep", "metrics", "kept", "best"), KEPT)
def test_the_newest_and_the_best_are_kept(tmp_path, keep, metrics, kept, best):
    for half in (slice(0, 3), slice(3, 5)):  # the metrics of the first half are read from disk
        with checkpoints.open(tmp_path, keep=keep) as saved:
            saved.restore(SMALL)
            for step, metric in list(enumerate(metrics, 1))[half]:
                saved.save(step, small(step), {}, metric=metric)
    assert steps(tmp_path) == kept
    with checkpoints.open(tmp_path, keep=keep) as saved:
        assert saved.restore(SMALL)[0] == kept[-1]
        found = saved.best(SMALL)
    assert (found and found[0]) == best
    if found:
        assert_same(found[1], small(best))


def test_a_step_that_is_there_is_not_written_again(three):
    with checkpoints.open(three) as saved:
        saved.restore(SMALL)
        saved.save(3, small(9), {})
        saved.save(4, small(4), {})
        saved.save(4, small(9), {})
        assert_same(saved.restore(SMALL)[1], small(4))


def test_checkpoints_of_another_run_are_not_mixed_with_new_ones(three):
    with (
        checkpoints.open(three) as saved,
        pytest.raises(LinftError, match="holds checkpoints of an earlier run, the newest of step 3; resume it"),
    ):
        saved.save(1, small(1), {})
    assert steps(three) == [1, 2, 3]


def test_what_is_half_written_is_cleared_away(three):
    shutil.copytree(three / "3", three / "4.orbax-checkpoint-tmp")
    shutil.copytree(three / "3", three / "5.orbax-checkpoint-tmp-1700000000")
    (three / "notes").mkdir()
    with checkpoints.open(three) as saved:
        assert saved.restore(SMALL)[0] == 3
    assert names(three) == {"1", "2", "3", "notes"}


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    for i in range(0, len(content), 7):
        content[i] ^= 4
    file.write_bytes(content)


FAULTS = {"truncated": truncate, "flipped": flip, "missing": Path.unlink, "empty": lambda file: file.write_bytes(b"")}


@pytest.mark.parametrize("fault", FAULTS)
def test_any_damage_is_harmless_or_passed_over(three, tmp_path_factory, caplog, fault):
    """Of each file of the newest step: either the state is right all the same, or that of the step before is read."""
    files = sorted(p.relative_to(three) for p in (three / "3").rglob("*") if p.is_file() and p.stat().st_size)
    passed_over = 0
    for number, file in enumerate(files):
        copy = tmp_path_factory.mktemp(str(number)) / "copy"
        shutil.copytree(three, copy)
        FAULTS[fault](copy / file)
        caplog.clear()
        with checkpoints.open(copy) as saved:
            step, found, log = saved.restore(SMALL)
        assert_same(found, small(step))
        assert log == {"rows": [step]}
        if step == 3:
            assert not caplog.records
            continue
        passed_over += 1
        (warning,) = caplog.records
        assert warning.name == "linft" and warning.levelno == logging.WARNING
        assert warning.getMessage().startswith(f"checkpoint {copy / '3'} cannot be read whole (")
        assert warning.getMessage().endswith("; going back to step 2")
        assert step == 2 and names(copy) == {"1", "2", "3.unreadable"}
    assert passed_over >= 3  # the record, and the arrays' index and data


def test_a_run_goes_on_over_a_damaged_checkpoint(three, caplog):
    for step in (2, 3):
        shutil.rmtree(three / f"{step}" / "state")
    with checkpoints.open(three) as saved:
        assert saved.restore(SMALL)[0] == 1
        assert [r.getMessage().endswith("; going back to step 1") for r in caplog.records] == [True, True]
        for step in (2, 3, 4):
            saved.save(step, small(step), {})
        step, found, _ = saved.restore(SMALL)
    assert step == 4 and steps(three) == [2, 3, 4]
    assert_same(found, small(4))


def test_without_a_whole_checkpoint_it_says_what_to_do(three):
    for step in (1, 2, 3):
        truncate(three / f"{step}" / "record" / "metadata")
    with (
        checkpoints.open(three) as saved,
        pytest.raises(LinftError, match=r"no checkpoint in .* can be read whole \(step 3: .*\); delete the directory"),
    ):
        saved.restore(SMALL)
    assert names(three) == {"1", "2", "3"}


def test_the_best_may_be_damaged_too(tmp_path, caplog):
    with checkpoints.open(tmp_path) as saved:
        for step, metric in enumerate([0.5, 0.7, 0.6]):
            saved.save(step, small(step), {}, metric=metric)
        saved.wait()
        shutil.rmtree(tmp_path / "1" / "state")
        assert saved.best(SMALL)[0] == 2
    assert "going back to step 2" in caplog.text


Other = namedtuple("Other", "w n")
DIFFERENT = [
    ({"w": np.zeros((2, 4)), "n": 0}, r"w is float64\[2, 3\] there and float64\[2, 4\] here;"),
    ({"w": np.zeros((2, 3), np.float32), "n": 0}, r"w is float64\[2, 3\] there and float32\[2, 3\] here;"),
    ({"w": np.zeros((2, 3))}, r"n is int64\[\] there and missing here;"),
    ({"v": np.zeros((2, 3)), "n": 0}, r"v is missing there and float64\[2, 3\] here, and 1 more differs;"),
    ({"w": (np.zeros((2, 3)), 0), "n": jax.random.key(0)}, r"n is int64\[\] there and key<fry>\[2\] here, and 3 more"),
]


@pytest.mark.parametrize(("like", "message"), DIFFERENT)
def test_checkpoints_of_another_model_are_refused(three, caplog, like, message):
    with (
        checkpoints.open(three) as saved,
        pytest.raises(LinftError, match="holds checkpoints of another model or recipe: " + message),
    ):
        saved.restore(like)
    assert names(three) == {"1", "2", "3"} and not caplog.records


@contextmanager
def full_disk() -> Iterator[None]:
    """Files may not grow past 1000 bytes: only here, since the log of the tests may be a file too."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_full_disk_is_reported_once_and_the_run_goes_on(tmp_path, caplog, capfd):
    rng = np.random.default_rng(0)
    large = {name: rng.integers(0, 256, 10**5, np.uint8) for name in "abcd"}  # incompressible
    with checkpoints.open(tmp_path) as saved:
        saved.save(1, large, {})
        saved.wait()
        with full_disk():
            for step in (2, 3):
                saved.save(step, large, {})
            saved.wait()
        (warning,) = caplog.records
        assert warning.getMessage() == (
            f"cannot write the checkpoint {tmp_path / '2'} (File too large); "
            "the run goes on, and the next one is tried again"
        )
        assert names(tmp_path) == {"1"}
        saved.save(4, large, {})
        assert saved.restore(large)[0] == 4
        with full_disk():
            saved.save(5, large, {})
            saved.wait()
    assert len(caplog.records) == 2 and names(tmp_path) == {"1", "4"}
    assert capfd.readouterr().err == ""


def test_without_room_it_does_not_begin_to_write(tmp_path, caplog, monkeypatch):
    usage = namedtuple("usage", "total used free")
    with checkpoints.open(tmp_path) as saved:
        with monkeypatch.context() as patch:
            patch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9, 2 * 10**5))
            saved.save(1, SMALL, {})
        assert names(tmp_path) == set()
        saved.save(2, SMALL, {})
    assert "(needs 1.0 MB and 0.2 MB are free)" in caplog.text
    assert len(caplog.records) == 1 and names(tmp_path) == {"2"}


def test_a_disk_that_cannot_be_asked_is_a_warning_too(tmp_path, caplog, monkeypatch):
    def fail(*args, **kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with checkpoints.open(tmp_path) as saved:
        monkeypatch.setattr(saved._orbax, "save", fail)
        saved.save(1, SMALL, {})
    assert "(No space left on device)" in caplog.text


def test_refuses_what_is_not_a_directory(tmp_path):
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "deep"):
        with pytest.raises(LinftError, match=r"cannot make the directory of checkpoints .*; choose another"):
            checkpoints.open(path)
    with pytest.raises(LinftError, match="keep=0 checkpoints; keep 1 or more"):
        checkpoints.open(tmp_path, keep=0)


def test_refuses_a_directory_that_it_may_not_write_to(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: not mode & os.W_OK)  # as root one may always
    with pytest.raises(LinftError, match=r"cannot write checkpoints to .* \(no permission\); choose another"):
        checkpoints.open(tmp_path)


SHARDED = """
import sys
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from linft.runtime import checkpoints

mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=(AxisType.Auto, AxisType.Auto))
def put(x, *spec): return jax.device_put(x, NamedSharding(mesh, P(*spec)))
w, keys = np.random.default_rng(0).normal(size=(8, 4)).astype("float32"), jax.random.split(jax.random.key(0), 8)
state = {"w": put(w, "data", "model"), "r": put(w), "k": put(keys, "data"), "step": jnp.array(3)}
like = {"w": put(0 * w, "model"), "r": put(0 * w, None, "data"), "k": put(keys, "model"), "step": jnp.array(0)}
with checkpoints.open(sys.argv[1]) as saved:
    saved.save(1, state, {})
    _, found, _ = saved.restore(like)
assert len(found["w"].sharding.device_set) == 8
for name in like:
    assert found[name].sharding == like[name].sharding and found[name].dtype == like[name].dtype, name
np.testing.assert_array_equal(found["w"], w)
np.testing.assert_array_equal(found["r"], w)
np.testing.assert_array_equal(jax.random.key_data(found["k"]), jax.random.key_data(keys))
assert not found["step"].committed  # it may still meet arrays of all devices
assert jax.jit(lambda tree: tree["w"].sum() + tree["step"])(found).shape == ()
"""


def test_sharded_arrays_come_back_as_they_are_wanted(tmp_path):
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", SHARDED, tmp_path], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr
