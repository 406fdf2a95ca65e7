"""The runs that a report knows: their order, labels, looks, and what each of them is."""

from dataclasses import dataclass


@dataclass(frozen=True)
class RunStyle:
    """How one run is called, drawn and explained."""

    label: str
    what: str
    """One sentence for the glossary."""
    colour: str = ""
    """Name in `style.PALETTE`."""
    width: float = 1.3
    dash: tuple[float, ...] = ()
    marker: str = ""
    alpha: float = 1.0


CURVES = {
    "finetuned_train_bn": RunStyle(
        "Real, batch norm in training mode",
        "The real network, trained with the statistics of each minibatch instead of the pretrained ones.",
        "grey", 1.8,
    ),
    "finetuned": RunStyle(
        "Real", "The real network, its weights trained by the recipe with batch norm’s statistics frozen.", "ink", 2.6
    ),
    "moving": RunStyle(
        "Predicted, the kernel moving",
        "The network known along the path that is predicted for its weights, to first order about it.",
        "teal", 2.2, (9.0, 2.0), "P",
    ),
    "moving_features": RunStyle(
        "Predicted, the features’ kernel moving",
        "The same of the features, in few directions, under an exact head.",
        "brown", 2.0, (9.0, 2.0), "X",
    ),
    "feature_linearized": RunStyle(
        "Features linearized",
        "The head is exact and the features are first order in the weights; both move together, in weights.",
        "green", 1.4, (6.0, 1.6, 1.5, 1.6), "s",
    ),
    "linearized": RunStyle(
        "Linearized network (weights)",
        "The whole network to first order around the pretrained weights, trained in weights.",
        "blue", 5.0, alpha=0.38,
    ),
    "dual": RunStyle(
        "Predicted from the kernel",
        "The same optimizer replayed in function space: exactly the linearized network, without training it.",
        "vermilion", 1.5, (4.0, 1.8), "o",
    ),
    "explicit": RunStyle(
        "Predicted from the Jacobian",
        "The linearized network, its weights moved by the recipe’s own optimizer with the Jacobian itself.",
        "red", 1.5, (2.5, 1.2), "v",
    ),
    "spectral": RunStyle(
        "Predicted, closed form",
        "Any step at once from the eigenvectors of the kernel; needs the full batch and squared error.",
        "purple", 1.3, (1.2, 1.2), "^",
    ),
    "gradient_flow": RunStyle(
        "Predicted, gradient flow",
        "Continuous-time training in the kernel, with the time that the schedule and momentum add up to.",
        "amber", 1.3, (8.0, 2.0), "D",
    ),
}  # fmt: skip
"""Runs in the order in which they are drawn and listed."""

REAL = ("finetuned_train_bn", "finetuned")
PREDICTIONS = (
    "dual", "explicit", "spectral", "gradient_flow", "moving", "moving_features", "linearized", "feature_linearized"
)  # fmt: skip
"""Approximations of the real run; where none says how far it holds the first one stands for the tangent kernel."""

LINKS_ONLY = {
    "dual_trace": RunStyle(
        "Predicted, trace kernel", "As predicted from the kernel, with one number for each pair of images."
    ),
    "dual_full_batch": RunStyle(
        "Predicted, trace kernel, full batch", "The same, with all training images in every step."
    ),
    "dual_no_momentum": RunStyle(
        "Predicted, trace kernel, no momentum", "The same again, without momentum, at the rate η/(1 − m)."
    ),
    "flow_trace": RunStyle("Predicted, trace kernel, gradient flow", "The same again, in continuous time."),
}
"""Runs that appear in the attribution alone."""

STYLES = CURVES | LINKS_ONLY

MEANINGS = {
    frozenset(("finetuned_train_bn", "finetuned")):
        "What the batch’s own statistics do that frozen ones do not.",
    frozenset(("finetuned_train_bn", "feature_linearized")):
        "How far the features bend: their change beyond first order in the weights.",
    frozenset(("finetuned_train_bn", "linearized")):
        "Everything beyond first order in the weights: features that bend, and head and features moving together.",
    frozenset(("finetuned_train_bn", "dual")):
        "Everything beyond first order in the weights: features that bend, and head and features moving together.",
    frozenset(("finetuned", "feature_linearized")):
        "How far the features bend: their change beyond first order in the weights.",
    frozenset(("finetuned", "linearized")):
        "Everything beyond first order in the weights: features that bend, and head and features moving together.",
    frozenset(("finetuned", "dual")):
        "Everything beyond first order in the weights: features that bend, and head and features moving together.",
    frozenset(("finetuned_train_bn", "moving")):
        "How the network bends beside the path that is predicted, and between the Jacobians on it.",
    frozenset(("finetuned", "moving")):
        "How the network bends beside the path that is predicted, and between the Jacobians on it.",
    frozenset(("moving", "feature_linearized")):
        "How the features bend along the predicted path.",
    frozenset(("moving", "linearized")):
        "The kernel’s own movement: the Jacobian at the pretrained weights against those along the path.",
    frozenset(("moving", "dual")):
        "The kernel’s own movement: the Jacobian at the pretrained weights against those along the path.",
    frozenset(("feature_linearized", "linearized")):
        "Head and features moving together: the product of their changes, which linearizing drops.",
    frozenset(("feature_linearized", "dual")):
        "Head and features moving together: the product of their changes, which linearizing drops.",
    frozenset(("linearized", "dual")):
        "Training weights against replaying coordinates: the same model, so rounding alone.",
    frozenset(("explicit", "dual")):
        "Moving weights against replaying coordinates: the same model, so rounding alone.",
    frozenset(("dual", "dual_trace")):
        "The kernel’s structure over the outputs, which its trace averages away.",
    frozenset(("dual_trace", "dual_full_batch")):
        "The noise of minibatches.",
    frozenset(("dual_full_batch", "dual_no_momentum")):
        "The transients of momentum, beyond the larger rate that it amounts to.",
    frozenset(("dual_no_momentum", "flow_trace")):
        "Steps of finite size instead of continuous time.",
}  # fmt: skip
"""What the difference between two runs means, whichever comes first."""
MEANINGS |= {
    pair - {"dual"} | {"explicit"}: why
    for pair, why in MEANINGS.items()
    if "dual" in pair and "explicit" not in pair and pair <= {*CURVES}
}


def label(name: str) -> str:
    """The name to show for a run."""
    return STYLES[name].label if name in STYLES else name
