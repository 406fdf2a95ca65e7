"""Many recipes of one task: grids and distributions, predicted from a kernel or really run, on many machines."""
