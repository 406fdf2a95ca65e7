"""What every command says of a task, a model or an option that is not there: one line, exit code 2, no traceback."""

import pytest

from linft.cli.main import COMMANDS, GROUPS

COMMAND = ()  # each in turn

CALLS = {
    "advise": "--task {task} --model {model}",
    "benchmark-selection": "--tasks {task}",
    "compare": "--task {task} --model {model}",
    "data list": "",
    "data prepare": "{name} --from {tmp}",
    "finetune": "--task {task} --model {model}",
    "kernel": "--task {task} --model {model}",
    "predict": "--task {task} --model {model}",
    "pretrain": "--task {task} --init {model}",
    "pretrain-domains": "--tasks {task} --init {model}",
    "rank": "--task {task} --models {model}",
    "sweep": "--task {task} --model {model} --vary momentum=0,0.9",
    "zoo add": "{small} --task {task}",
    "zoo import": "{model}",
    "zoo list": "--zoo {nowhere}",
    "zoo show": "{name} --zoo {tmp}",
}
"""Arguments of each command, with a place for what may be wrong."""

FAULTS = {
    "unknown task": ("task", "digitz", "no task 'digitz'"),
    "missing file of a task": ("task", "npz:{tmp}/nowhere.npz", "nowhere.npz"),
    "unknown model": ("model", "resnet9000", "resnet9000"),
    "missing file of a model": ("model", "{tmp}/nowhere.safetensors", "nowhere.safetensors"),
    "unknown name": ("name", "zebras", "'zebras'"),
    "missing directory": ("nowhere", "{tmp}/nowhere", "no zoo at"),
}

VALUES = {
    **dict.fromkeys(("advise", "compare", "finetune", "kernel", "predict", "sweep"), "--train-images"),
    **dict.fromkeys(("pretrain", "pretrain-domains"), "--batch-size"),
    **dict.fromkeys(("benchmark-selection", "rank"), "--jobs"),
    **dict.fromkeys(("zoo add", "zoo import"), "--dtype"),
}
"""An option of each command that does not take any word."""

REQUIRED = (
    "benchmark-selection", "data prepare", "finetune", "kernel", "pretrain", "pretrain-domains", "rank", "zoo add",
    "zoo import", "zoo show",
)  # fmt: skip


def test_no_command_is_left_out():
    members = {f"{group} {name}" for group, (_, names) in GROUPS.items() for name in names}
    assert set(CALLS) == set(COMMANDS) | members


CASES = [(command, fault) for command, words in CALLS.items() for fault in FAULTS if f"{{{FAULTS[fault][0]}}}" in words]


@pytest.mark.parametrize(("command", "fault"), CASES)
def test_what_is_not_there(command, fault, refused, model_file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    place, wrong, message = FAULTS[fault]
    right = {"task": "digits", "model": model_file, "small": model_file, "tmp": tmp_path}
    words = CALLS[command].format(**right | {place: wrong.format(tmp=tmp_path)})
    line = refused(*command.split(), *words.split())
    assert line.startswith("linft: ") and message in line


def refused_by_the_parser(call, capsys, *arguments: str) -> str:
    with pytest.raises(SystemExit) as stopped:
        call(*arguments)
    said = capsys.readouterr().err
    assert stopped.value.code == 2 and "Traceback" not in said
    return said


@pytest.mark.parametrize("command", CALLS)
def test_an_option_that_there_is_not(command, call, capsys):
    words = CALLS[command].format(**dict.fromkeys(("task", "model", "small", "tmp", "name", "nowhere"), "x"))
    assert "--nosuch" in refused_by_the_parser(call, capsys, *command.split(), *words.split(), "--nosuch", "1")


@pytest.mark.parametrize("command", VALUES)
def test_a_value_that_an_option_does_not_take(command, call, capsys):
    words = CALLS[command].format(**dict.fromkeys(("task", "model", "small"), "x"))
    given = (*command.split(), *words.split(), VALUES[command], "much")
    assert VALUES[command] in refused_by_the_parser(call, capsys, *given)


@pytest.mark.parametrize("command", REQUIRED)
def test_what_is_required(command, call, capsys):
    assert "Required options" in refused_by_the_parser(call, capsys, *command.split())


def test_a_sweep_of_nothing(refused):
    assert "give --grid li2020" in refused("sweep")


@pytest.mark.parametrize("command", ["advise", "compare", "finetune", "kernel", "predict", "sweep"])
def test_no_image_is_not_all_of_them(command, refused, model_file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = CALLS[command].format(task="digits", model=model_file)
    assert "a subset of 0 training images" in refused(command, *words.split(), "--train-images", 0)
