"""Norms, SiLU and the row functions' exponential against float64 NumPy, for few rows and for many."""

from __future__ import annotations

import numpy as np
import pytest

from topmast_kernels.cpu import rows

EPSILON = np.full(1, 1e-5, np.float32)


@pytest.mark.parametrize("count", [1, 3, 80])
@pytest.mark.parametrize("width", [32, 576])
@pytest.mark.parametrize("adds", [False, True])
def test_norm_of_the_sum_equals_float64_and_has_the_same_bits_alone(count: int, width: int, adds: bool) -> None:
    rng = np.random.default_rng(width + count)
    x, added = rng.standard_normal((2, count, width)).astype(np.float32)
    weight, out, before = rng.standard_normal(width).astype(np.float32), np.empty_like(x), x.copy()
    rows.add_norm(x, added, adds, weight, EPSILON, out)
    wide = before.astype(np.float64) + (added if adds else 0.0)
    expected = wide / np.sqrt((wide**2).mean(axis=1, keepdims=True) + 1e-5) * weight
    np.testing.assert_allclose(x, wide, atol=1e-6)
    np.testing.assert_allclose(out, expected, rtol=1e-6, atol=1e-6)
    for row in range(count):
        lone, alone = before[row : row + 1].copy(), np.empty_like(out[:1])
        rows.add_norm(lone, added[row : row + 1].copy(), adds, weight, EPSILON, alone)
        assert np.array_equal(alone[0], out[row])


@pytest.mark.parametrize("count", [1, 40])
@pytest.mark.parametrize("width", [32, 1536])
def test_gated_values_equal_float64_and_have_the_same_bits_alone(count: int, width: int) -> None:
    gate_up = (8 * np.random.default_rng(width).standard_normal((count, 2 * width))).astype(np.float32)
    gate_up[0, :6] = [0.0, -0.0, 87.0, -87.0, 200.0, -200.0]
    out = np.empty((count, width), np.float32)
    rows.silu_multiply(gate_up, out)
    gate, up = gate_up[:, :width].astype(np.float64), gate_up[:, width:]
    expected = gate / (1 + np.exp(-gate)) * up
    np.testing.assert_allclose(out, expected, rtol=4e-6, atol=1e-30)
    for row in range(count):
        alone = np.empty_like(out[:1])
        rows.silu_multiply(gate_up[row : row + 1].copy(), alone)
        assert np.array_equal(alone[0], out[row])


def test_a_value_that_is_not_a_number_stays_visible_and_stays_in_its_row() -> None:
    gate_up = np.ones((3, 64), np.float32)
    gate_up[1, 5] = np.nan
    out = np.empty((3, 32), np.float32)
    rows.silu_multiply(gate_up, out)
    assert np.isnan(out[1, 5])
    assert np.isfinite(out[[0, 2]]).all()
    normed = np.empty_like(out)
    rows.add_norm(out, out, False, np.ones(32, np.float32), EPSILON, normed)
    assert np.isnan(normed[1]).all()
    assert np.isfinite(normed[[0, 2]]).all()
