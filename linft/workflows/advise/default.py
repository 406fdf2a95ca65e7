"""The recipe that an advice is held against, and whose other settings it keeps."""

from linft.core.recipe import Recipe

DEFAULT = Recipe(schedule="cosine", weight_decay=1e-4, batch_size=32, epochs=10)
"""What `linft finetune` does unless it is told otherwise, but with batch norm frozen, as a kernel has it."""
