"""Checkpoints of a run: written while training goes on, checked when read, passed over when damaged."""

from linft.runtime.checkpoints.directory import Checkpoints, open

__all__ = ["Checkpoints", "open"]
