"""What is compiled for one model serves every call, and every model of the same functions at other weights."""

import jax
import jax.monitoring
import numpy as np
import pytest
from narrow import small_resnet

import linft
from linft.core.forward_pass import forward_pass
from linft.models import batch_norm
from linft.predict.tangent import outputs_on
from linft.scores.gather import gather
from linft.training import delta
from linft.training.ten_crop import ten_crop_probabilities

compiled: list[str] = []


def listen(event: str, *_: object, **about: object) -> None:
    if event == "/jax/core/compile/backend_compile_duration":
        compiled.append(str(about))


jax.monitoring.register_event_duration_secs_listener(listen)

RECIPE = linft.Recipe(steps=2, batch_size=6, learning_rate=0.01)
LOOPS = {
    "logits": lambda model, task: model.logits_of(task.x_train, batch=10),
    "features": lambda model, task: model.features_of(task.x_train, batch=10),
    "ten crops": lambda model, task: ten_crop_probabilities(model, task.x_train, batch=10),
    "tangent": lambda model, task: outputs_on(model, model.preprocess(task.x_train)),
    "scores": lambda model, task: gather(model, task, ("features",)),
    "last convolution": lambda model, task: gather(model, task, ("features", "kernel")),
    "statistics": lambda model, task: batch_norm.reestimated(model, task.x_train),
    "channels": lambda model, task: delta.loss_increases(model, task, ["stage1"]),
    "probe": lambda model, task: model.with_head(10, init="probe", task=task),
    "fine-tuning": lambda model, task: linft.finetune(model, task)(RECIPE),
    "training mode by parts": lambda model, task: linft.finetune(model, task)(
        RECIPE.replace(batch_norm="train", bn_batch_size=3)
    ),
}


def network(seed: int) -> linft.Model:
    """As a file gives it: with a preprocessing of its own, which is equal to the others'."""
    return small_resnet(10, seed=seed)


@pytest.fixture(scope="module")
def few(digits):
    return digits.subset(12, 6, seed=0)


@pytest.mark.parametrize("loop", LOOPS)
def test_nothing_is_compiled_twice(loop, few):
    models = [network(seed) for seed in (0, 1)]
    models = [model.replace(params=jax.block_until_ready(model.params)) for model in models]
    LOOPS[loop](models[0], few)
    before = len(compiled)
    LOOPS[loop](models[0], few)
    LOOPS[loop](models[1], few)
    assert compiled[before:] == []


def test_runs_of_other_lengths_share_their_step(few):
    model = network(0)
    linft.finetune(model, few)(RECIPE)
    before = len(compiled)
    linft.finetune(model, few)(RECIPE.replace(steps=5, schedule="cosine"))
    assert not [program for program in compiled[before:] if "advance" in program]


def test_the_listener_hears():
    before = len(compiled)
    jax.jit(lambda x: x + 2)(np.ones(3))
    assert len(compiled) > before


def test_it_is_the_forward_pass(few):
    model = network(0)
    images = model.preprocessing.resize(few.x_train)
    x = model.preprocessing.normalize(images)
    expected = model.forward(model.params, model.batch_stats, x)
    for i, output in enumerate(("logits", "features")):
        for of_images in (False, True):
            program = forward_pass(model.forward, output, model.preprocessing if of_images else None)
            got = program(model.params, model.batch_stats, images if of_images else x)
            np.testing.assert_allclose(got, expected[i], rtol=1e-4, atol=1e-5)
