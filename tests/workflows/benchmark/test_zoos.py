"""Which zoos are in the shipped one, by what its files say of themselves."""

from linft.workflows.benchmark.protocol import Target
from linft.workflows.benchmark.zoos import zoos
from linft.zoo.load import SHIPPED

TARGETS = [Target("hymenoptera", "npz:unread"), Target("ucmerced16", "npz:unread")]


def test_the_shipped_zoo_has_three():
    """29 single-domain experts, 15 of them ResNets, and 5 domains; of ucmerced16 two of each network are left out."""
    found = zoos(SHIPPED, TARGETS, "resnet14-cifar10", "multibn5-cifar10")
    sizes = {zoo.name: [len(zoo.models[target.name]) for target in TARGETS] for zoo in found}
    assert sizes == {"single": [29, 25], "single_alike": [15, 13], "multi": [5, 5]}
    assert all(zoo.reference in models for zoo in found for models in zoo.models.values())
    assert all(name.startswith("resnet14") for name in found[1].models["hymenoptera"])


def test_zoos_of_one_model_are_left_out():
    found = zoos(SHIPPED, TARGETS, "no such model", "multibn5-cifar10")
    assert [zoo.name for zoo in found] == ["single", "multi"]
