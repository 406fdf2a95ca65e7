"""A small network and a recipe that tests of sweeps try."""

import flax.linen as nn

import linft

BASE = linft.Recipe(learning_rate=0.01, batch_size=None, steps=20, loss="squared_error")
"""That the closed form runs, too."""


RATES = {"learning_rate": [0.02, 0.01, 0.005, 0.002, 0.001, 1e4]}
"""Six points, the last of which diverges."""


class Net(nn.Module):
    """A convolution, a hidden layer and a head."""

    @nn.compact
    def __call__(self, x):
        x = nn.tanh(nn.Conv(4, (3, 3), strides=2, name="conv")(x))
        x = nn.tanh(nn.Dense(6, name="hidden")(x.reshape(len(x), -1)))
        return nn.Dense(10, name="head")(x)
