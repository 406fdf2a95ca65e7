"""What keeps archived dependencies working on current JAX."""
