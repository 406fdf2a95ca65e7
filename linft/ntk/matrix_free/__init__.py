"""Kernels too large to hold: products, eigenvalues, solutions, traces."""
