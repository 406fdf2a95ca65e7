"""Kernels of any size on disk, tile by tile."""
