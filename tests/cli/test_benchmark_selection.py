"""`linft benchmark-selection` from the first run to the tables, on a zoo of three tiny models."""

import json
import sys

import pytest
from narrow import small_resnet

import linft
from linft.cli.main import main


@pytest.fixture(scope="module")
def zoo(tmp_path_factory):
    directory = tmp_path_factory.mktemp("zoo")
    for seed, (name, data) in enumerate({"a": "birds", "b": "cars", "c": "planes"}.items()):
        model = small_resnet(4, seed=seed)
        linft.save_model(model.replace(name=name, source={"data": data}), directory / f"{name}.safetensors")
    (directory / "broken.safetensors").write_bytes(b"nothing")
    return directory


@pytest.fixture
def call(monkeypatch):
    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["linft", "benchmark-selection", *arguments])
        main()

    return call


@pytest.fixture
def arguments(zoo, tmp_path) -> list[str]:
    words = "--shots 2 full --steps 1 1 --batches 5 5 --rates 0.1 --seeds 0 --train-images 30 --test-images 20"
    scores = "--scores lfc knn --per-class 3 --other-per-class 2 --reference a"
    return f"--tasks digits --zoo {zoo} --output {tmp_path} {words} {scores}".split()


@pytest.mark.slow
def test_all_of_it_then_again_at_once(call, arguments, tmp_path):
    call(*arguments)
    rows = [json.loads(line) for line in (tmp_path / "truth.jsonl").read_text().splitlines()]
    assert [(row["model"], row["shots"]) for row in rows] == [(m, s) for s in (2, "full") for m in "abc"]
    scored = [json.loads(line) for line in (tmp_path / "scores.jsonl").read_text().splitlines()]
    assert len(scored) == 3 * (2 + 1) and all(row["scores"].keys() | row["undefined"] for row in scored)
    text = (tmp_path / "tables.md").read_text()
    assert "6 of 6 fine-tunings are done" in text and "| lfc |" in text and "single-domain" in text.lower()
    assert {path.name for path in tmp_path.glob("*.svg")} >= {"single_gains.svg", "single_measures.svg"}

    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    call(*arguments)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (["--names", "digits", "more"], "1 tasks need as many different names"),
        (["--steps", "1"], "as many steps and batches as shots"),
        (["--scores", "guess"], "no score guess"),
        (["--names", "birds", "--reference", "b", "--zoo", "nowhere"], "no zoo at nowhere"),
    ],
)
def test_what_cannot_be_is_said_in_a_line(refused, arguments, changed, message):
    assert message in refused(*arguments, *changed)
