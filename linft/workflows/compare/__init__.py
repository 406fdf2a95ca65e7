"""Prediction and reality side by side."""
