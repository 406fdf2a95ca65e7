"""When equal η' = η/(1 − m) gives equal curves: for small rates, where momentum only lags by some steps."""

import numpy as np
import pytest

import linft
from linft import predict
from linft.predict.stability import stability

ALL = linft.Recipe(batch_size=None, loss="squared_error", steps=1)


def gap(tangent, share: float, steps: int, momentum: float, nesterov: bool) -> float:
    """Largest difference of the train loss between a run with momentum and one without, at one η'."""
    effective = share / stability(tangent, ALL).lambda_max
    run = predict.spectral(tangent, record_every=steps // 20)

    def curve(m: float) -> np.ndarray:
        rate = effective * (1 - m)
        return run(ALL.replace(learning_rate=rate, momentum=m, nesterov=nesterov, steps=steps)).train_loss

    return float(np.abs(curve(momentum) - curve(0.0)).max())


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("momentum", [0.5, 0.9])
def test_the_difference_is_of_first_order_in_the_rate(tangent, momentum, nesterov):
    gaps = np.array([gap(tangent, 0.004 / k, 2000 * k, momentum, nesterov) for k in (1, 2, 4)])
    assert gaps[:-1] / gaps[1:] == pytest.approx(2.0, rel=0.15)


def test_momenta_lag_by_m_over_1_minus_m_steps(tangent):
    small = [gap(tangent, 0.002, 4000, m, False) for m in (0.5, 0.8, 0.9)]
    assert small[1:] == pytest.approx([4 * small[0], 9 * small[0]], rel=0.15)


def test_at_large_rates_equal_effective_rates_part(tangent):
    assert gap(tangent, 1.0, 40, 0.9, False) > 20 * gap(tangent, 0.002, 20000, 0.9, False)
