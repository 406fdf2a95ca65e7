"""`linft advise` as a user types it."""

import json

import pytest
import yaml

COMMAND = ("advise",)
FEW = ("--task", "digits", "--train-images", 20, "--test-images", 10, "--budget", 4, "--folds", 2)


def test_a_recipe_is_advised_and_trained(call, model_file, tmp_path):
    said = call("--model", model_file, "--output", tmp_path, "--verify", *FEW)
    found = json.loads((tmp_path / "advice.json").read_text())
    assert "learning rate" in said and "edge of stability" in said and str(tmp_path / "advice.json") in said
    assert found["recipe"]["steps"] == 4 and sum(point["chosen"] for point in found["points"]) == 1
    assert (tmp_path / "recipe.yaml").exists()


def test_of_adapters(call, model_file, tmp_path):
    call("--model", model_file, "--output", tmp_path, "--lora-rank", 1, *FEW)
    found = json.loads((tmp_path / "advice.json").read_text())
    assert {point["values"].get("reinit_groups", 1) for point in found["points"]} == {1}
    assert yaml.safe_load((tmp_path / "recipe.yaml").read_text())["lora_rank"] == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--budget", 0), "budget"),
        (("--model", "nosuch"), "nosuch"),
        (("--task", "npz:/nosuch.npz"), "/nosuch.npz"),
        (("--folds", 1), "fold"),
    ],
)
def test_bad_input_is_one_line(refused, model_file, tmp_path, arguments, said):
    assert said in refused("--model", model_file, "--output", tmp_path, *FEW, *arguments)
