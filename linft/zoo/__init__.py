"""Weights on disk or hub, as models."""
