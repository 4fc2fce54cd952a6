"""Fewer states with a bound: balanced truncation against known systems, and of compiled programs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from contract import same
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import linrec
from linrec.errors import StateError
from linrec.nn import LMU
from linrec.recurrence import RecurrentModule
from linrec.reduction import balanced_truncation, reduce


def response(A: Any, G: Any, C: Any, count: int) -> Any:
    """C A^k G for k = 0 .. count - 1."""
    state, found = G, []
    for _ in range(count):
        found.append(C @ state)
        state = A @ state
    return np.stack(found)


def gain(A: Any, G: Any, C: Any, B: Any) -> float:
    """The largest singular value of the difference of two systems' transfer functions on the unit circle."""
    found = 0.0
    for w in np.linspace(0, np.pi, 400):
        z = np.exp(1j * w)
        H = [c @ np.linalg.solve(z * np.eye(len(a)) - a, g) for a, g, c in ((A, G, C), B)]
        found = max(found, float(np.linalg.norm(H[0] - H[1], 2)))
    return found


@given(seed=st.integers(0, 10**6), n=st.integers(2, 9), tolerance=st.sampled_from([1e-4, 1e-2, 0.3]))
@settings(max_examples=25, deadline=None)
def test_the_bound_holds(seed: int, n: int, tolerance: float) -> None:
    draw = np.random.default_rng(seed)
    A = draw.normal(size=(n, n))
    A *= draw.uniform(0.1, 0.95) / np.abs(np.linalg.eigvals(A)).max()
    G, C = draw.normal(size=(n, 2)), draw.normal(size=(3, n))
    small = balanced_truncation(A, G, C, tolerance)
    assert small.bound <= tolerance or len(small.A) == n
    assert gain(A, G, C, (small.A, small.G, small.C)) <= small.bound + 1e-6 * (1 + small.values[0])
    assert np.all(np.diff(small.values) <= 1e-12)


def test_what_nothing_reaches_or_sees_is_dropped() -> None:
    A = np.diag([0.9, 0.5, 0.3, 0.2])
    G, C = np.array([[1.0], [1.0], [0.0], [1.0]]), np.array([[1.0, 1.0, 1.0, 0.0]])
    small = balanced_truncation(A, G, C, 0.0)
    assert len(small.A) == 2 and small.bound < 1e-6
    np.testing.assert_allclose(response(A, G, C, 30), response(small.A, small.G, small.C, 30), atol=1e-9)
    with pytest.raises(ValueError, match="stable"):
        balanced_truncation(np.diag([1.01]), np.ones((1, 1)), np.ones((1, 1)), 0.1)


class Net(nn.Module):
    def __init__(self, order: int, theta: float) -> None:
        super().__init__()
        self.layer, self.head = LMU(2, 3, order, theta), nn.Linear(3, 1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.layer(x))
        return y


@pytest.mark.parametrize(("order", "theta"), [(24, 40.0), pytest.param(468, 784.0, marks=pytest.mark.slow)])
def test_a_long_memory_is_cut_down(order: int, theta: float) -> None:
    torch.manual_seed(0)
    net = linrec.compile(Net(order, theta).double(), verify="off")
    x = torch.randn(5, 300, 2, dtype=torch.float64)
    with torch.no_grad():
        want = net(x)
        rnn = linrec.recurrent(net)
        assert isinstance(rnn, RecurrentModule)
        small = reduce(rnn, 1e-3)
        (summary,) = small.summary
        assert summary.before == order > summary.after and summary.bound <= 1e-3
        assert "order" in str(summary)
        layer = net.layer
        assert isinstance(layer, LMU)
        drive = torch.relu(layer.U_x(x))
        got, state = small(x)
        weight = float(torch.linalg.matrix_norm(net.head.weight, 2))  # after the memory: relu, then the head
        error = float((got - want).norm() / drive.norm())
        assert 1e-9 < error <= summary.bound * weight
        held, ys = None, []
        for t in range(40):
            y, held = small.step(x[:, t], state=held)
            ys.append(y)
        same(torch.stack(ys, 1), got[:, :40])
        assert sum(v.shape[-1] for v in state.values()) == summary.after
        rnn.float()
        with pytest.raises(StateError, match="reduce it again"):
            small(x.float())


def test_what_is_not_time_invariant_stays() -> None:
    def gated(x: Tensor) -> Tensor:
        h, out = torch.zeros_like(x[:, 0]), []
        for t in range(x.shape[1]):
            h = torch.sigmoid(x[:, t]) * h + x[:, t]
            out.append(h)
        return torch.stack(out, 1)

    x = torch.randn(2, 8, 3)
    rnn = linrec.recurrent(linrec.compile(gated), x)
    assert isinstance(rnn, RecurrentModule)
    small = reduce(rnn)
    assert small.summary == ()
    same(small(x)[0], gated(x), rel=1e-5)
