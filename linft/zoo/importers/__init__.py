"""Weights of others, one family of files a module."""
