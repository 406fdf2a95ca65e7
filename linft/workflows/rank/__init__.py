"""Pretrained models in order for a task."""
