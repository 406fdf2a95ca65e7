"""Advice on how to fine-tune: measures, the papers' findings as rules, a search in function space."""

from linft.core.recipe import Recipe

DEFAULT = Recipe(schedule="cosine", weight_decay=1e-4, batch_size=32, epochs=10)
"""The recipe that an advice is held against, and whose other settings it keeps."""
