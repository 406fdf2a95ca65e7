"""Weights of others, one family a file."""
