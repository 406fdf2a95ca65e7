"""The real run: optimizer, step, batches, evaluation, history, and a directory that a run lives in."""
