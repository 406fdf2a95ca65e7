"""Tasks by name, the catalogue of data sets, augmentation, and images that stay in their files."""
