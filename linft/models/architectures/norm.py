"""Batch norm as torch has it."""

import re

import flax.linen as nn

NAME = re.compile(r"(^|[/_])norm\d*$")
"""What the path of every norm ends with, and of no other layer."""


class Norm(nn.BatchNorm):
    """Batch norm with torch's constants (momentum 0.1 there is 0.9 here)."""

    momentum: float = 0.9
    epsilon: float = 1e-5
