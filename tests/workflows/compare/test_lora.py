"""A comparison of a run that trains adapters of low rank."""

import drawn
import jax

import linft


def test_compare_by_adapters(digits, tmp_path):
    """In training mode: real runs, kernel, Jacobian, and the kernel that moves, all of the adapters."""
    task = digits.subset(10, 6, seed=0)
    model = linft.lora(drawn.make(drawn.Normed()), rank=2, key=jax.random.key(0))
    recipe = linft.Recipe(learning_rate=0.05, batch_size=5, steps=4, batch_norm="train")
    runs = ("finetuned_train_bn", "finetuned", "dual", "explicit", "moving", "linearized", "dual_trace")
    found = linft.compare(model, task, recipe, runs, tmp_path).result
    assert set(found.runs) == set(runs) and found.reference == "finetuned_train_bn"
    for name, run in found.runs.items():
        assert set(run.distance) == {"stage1", "stage2", "head"} and run.diverged_at is None, name
    assert abs(found.runs["explicit"].train_loss[-1] - found.runs["dual"].train_loss[-1]) < 1e-4
