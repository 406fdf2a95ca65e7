"""Pictures of several sizes, which crops are cut from."""

import numpy as np

SIZES = ((40, 40), (40, 45), (52, 40), (41, 40))


def cut(digits):
    """One of each size, cut from a sheet of 24 digits."""
    sheet = digits.x_train[..., 0].reshape(4, 6, 8, 8).swapaxes(1, 2).reshape(32, 48)
    sheet = np.concatenate([sheet, sheet[:, ::-1]])
    return [np.stack([part, part, 255 - part], axis=-1) for part in (sheet[:h, :w] for h, w in SIZES)]
