"""Files of tensors, one format a file."""
