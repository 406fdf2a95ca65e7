"""When equal η' = η/(1 − m) gives equal curves: for small rates, where momentum only lags by some steps."""

import numpy as np
import pytest
from narrow import small_resnet

import linft
from linft import predict
from linft.predict.stability import stability
from linft.predict.tangent import tangent

ALL = linft.Recipe(batch_size=None, loss="squared_error", steps=1)


@pytest.fixture(scope="module")
def found():
    task = linft.load_task("digits").subset(12, 10)
    return tangent(small_resnet(10, width=4), task)


def gap(found, share: float, steps: int, momentum: float, nesterov: bool) -> float:
    """Largest difference of the train loss between a run with momentum and one without, at one η'."""
    effective = share / stability(found, ALL).lambda_max
    run = predict.spectral(found, record_every=steps // 20)

    def curve(m: float) -> np.ndarray:
        rate = effective * (1 - m)
        return run(ALL.replace(learning_rate=rate, momentum=m, nesterov=nesterov, steps=steps)).train_loss

    return float(np.abs(curve(momentum) - curve(0.0)).max())


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("momentum", [0.5, 0.9])
def test_the_difference_is_of_first_order_in_the_rate(found, momentum, nesterov):
    gaps = np.array([gap(found, 0.004 / k, 2000 * k, momentum, nesterov) for k in (1, 2, 4)])
    assert gaps[:-1] / gaps[1:] == pytest.approx(2.0, rel=0.15)


def test_momenta_lag_by_m_over_1_minus_m_steps(found):
    small = [gap(found, 0.002, 4000, m, False) for m in (0.5, 0.8, 0.9)]
    assert small[1:] == pytest.approx([4 * small[0], 9 * small[0]], rel=0.15)


def test_at_large_rates_equal_effective_rates_part(found):
    assert gap(found, 1.0, 40, 0.9, False) > 20 * gap(found, 0.002, 20000, 0.9, False)
