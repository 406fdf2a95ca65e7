"""`linft kernel` as a user types it."""

import signal
import subprocess
import sys

import jax
import numpy as np
import pytest

import linft
from linft.cli.main import main
from linft.ntk.tiled import store

SMALL = ("--task", "digits", "--train-images", "12", "--test-images", "5", "--tile", "5", "--head", "normal")


@pytest.fixture(scope="module")
def call(model_file):
    def call(*arguments):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["linft", "kernel", "--model", str(model_file), *map(str, arguments)])
            main()

    return call


@pytest.fixture(scope="module")
def once(call, tmp_path_factory):
    output = tmp_path_factory.mktemp("once") / "K.zarr"
    call(*SMALL, "--output", output)
    return output


def test_the_kernel_on_disk_is_that_of_the_model_and_the_task(once, model_file):
    task = linft.load_task("digits").subset(12, 5, 0)
    model = linft.load_model(model_file).with_head(10, jax.random.key(0), "normal", 0.01)
    x_train, x_test = model.preprocess(task.x_train), model.preprocess(task.x_test)
    square, rectangle = store.load(once)
    assert tuple(square.blocks) == tuple(model.stages)
    for found, expected in (
        (square, linft.empirical_ntk(model, x_train)),
        (rectangle, linft.empirical_ntk(model, x_test, x_train)),
    ):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * b.max()), found, expected)


def test_it_says_what_there_is_and_goes_on_where_it_was(once, call, capsys):
    before = {file: file.stat().st_mtime_ns for file in once.rglob("*")}
    lost = sorted(once.glob("train/*/c.*"))[7]
    lost.unlink()
    call(*SMALL, "--output", once, "--resume")
    lines = capsys.readouterr().out.splitlines()
    assert lines[-2:-1] == ["tiles of test: 9/9"]
    assert "K.zarr, train [12, 10, 12, 10] and test [5, 10, 12, 10] for stem, stage1, head" in lines[-1]
    assert lines[-1].endswith("kB on disk")
    changed = [file for file, at in before.items() if file.stat().st_mtime_ns != at and file.is_file()]
    assert lost in changed and len(changed) <= 2  # and its mirror


BAD = {
    "no --resume": ((), "holds a kernel; go on with it by --resume, or choose another --output"),
    "another kernel": (("--resume", "--precision", "bfloat16"), 'another precision ("highest", now "bfloat16")'),
    "other images": (("--resume", "--sample-seed", "1"), "another model ("),
    "memory": (("--resume", "--memory", "much"), "'much' is no size of memory; give one such as 4GiB"),
    "group": (("--resume", "--groups", "stage9"), "no layer group stage9"),
    "head": (("--resume", "--head", "own"), "classes"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line(case, once, refused):
    arguments, message = BAD[case]
    assert message in refused(*SMALL, "--output", once, *arguments)


@pytest.mark.slow
def test_a_call_that_is_asked_to_leave_keeps_its_tiles(once, model_file, tmp_path):
    output = tmp_path / "K.zarr"
    command = [sys.executable, "-u", "-m", "linft.cli.main", "kernel", "--model", model_file, *SMALL]
    command = [*map(str, command), "--output", str(output), "--resume"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert any(
        line.startswith("tiles of train: ") and not line.startswith("tiles of train: 0/") for line in process.stdout
    )
    process.send_signal(signal.SIGTERM)
    error = process.communicate(timeout=300)[1]
    assert process.returncode == 2
    assert error.strip().splitlines()[-1].startswith("linft: interrupted; what is finished is kept")
    kept = {file: file.stat().st_mtime_ns for file in output.glob("*/*/c.*") if file.suffix != ".__lock"}
    assert len(kept) > 0
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    contents = [
        {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}
        for path in (output, once)
    ]
    assert contents[0] == contents[1]
