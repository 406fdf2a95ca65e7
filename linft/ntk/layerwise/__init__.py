"""The kernel from the gradients of each layer, one layer kind a rule."""
