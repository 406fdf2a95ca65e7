"""Scores of pretrained models for a task: pure functions of arrays from any framework; larger is better."""

from linft.scores.alignment import alignment, lfc, lgc
from linft.scores.arrays import Undefined
from linft.scores.decorrelation import decorrelation_gap
from linft.scores.dissimilarity import parc, rsa
from linft.scores.domain_similarity import domain_similarity
from linft.scores.dynamics import generalization, training_speed
from linft.scores.feature_metrics import feature_metrics
from linft.scores.fisher import fisher
from linft.scores.hscore import hscore
from linft.scores.knn import knn
from linft.scores.leep import leep, nce, nleep
from linft.scores.linear_probe import linear_probe, probe_gap
from linft.scores.logme import logme
from linft.scores.random_score import random_score
from linft.scores.transrate import transrate

__all__ = [
    "Undefined", "alignment", "decorrelation_gap", "domain_similarity", "feature_metrics", "fisher",
    "generalization", "hscore", "knn", "leep", "lfc", "lgc", "linear_probe", "logme", "nce", "nleep", "parc",
    "probe_gap", "random_score", "rsa", "training_speed", "transrate",
]  # fmt: skip
