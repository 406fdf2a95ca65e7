"""The empirical neural tangent kernel: layer rules, two engines, assembly and self-check."""
