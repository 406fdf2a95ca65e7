"""Named sources of images, sampling, augmentation."""
