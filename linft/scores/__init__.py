"""Scores of pretrained models for a task: pure functions of arrays from any framework; larger is better."""

from linft.scores.alignment import alignment as alignment
from linft.scores.decorrelation import decorrelation_gap as decorrelation_gap
from linft.scores.domain_similarity import domain_similarity as domain_similarity
from linft.scores.feature_metrics import feature_metrics as feature_metrics
from linft.scores.fisher import fisher as fisher
from linft.scores.generalization import generalization as generalization
from linft.scores.hscore import hscore as hscore
from linft.scores.knn import knn as knn
from linft.scores.leep import leep as leep
from linft.scores.lfc import lfc as lfc
from linft.scores.lgc import lgc as lgc
from linft.scores.linear_probe import linear_probe as linear_probe
from linft.scores.logme import logme as logme
from linft.scores.nce import nce as nce
from linft.scores.nleep import nleep as nleep
from linft.scores.parc import parc as parc
from linft.scores.probe_gap import probe_gap as probe_gap
from linft.scores.random_score import random_score as random_score
from linft.scores.rsa import rsa as rsa
from linft.scores.training_speed import training_speed as training_speed
from linft.scores.transrate import transrate as transrate
from linft.scores.undefined import Undefined as Undefined

__all__ = [
    "Undefined", "alignment", "decorrelation_gap", "domain_similarity", "feature_metrics", "fisher",
    "generalization", "hscore", "knn", "leep", "lfc", "lgc", "linear_probe", "logme", "nce", "nleep", "parc",
    "probe_gap", "random_score", "rsa", "training_speed", "transrate",
]  # fmt: skip
