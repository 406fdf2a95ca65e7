"""The papers' data sets: what they are, how their archives are laid out, and which are on disk."""
