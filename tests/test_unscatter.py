"""Results written into an array, and values folded and unfolded, keep their place in time: they have a recurrent form."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import linrec

A, B = 0.6, -0.3


def one_by_one(x: Tensor) -> Tensor:
    y = torch.zeros_like(x)
    y[:, 0] = x[:, 0]
    for t in range(1, x.shape[1]):
        y[:, t] = A * y[:, t - 1].clone() + x[:, t]
    return y


def two_at_the_front(x: Tensor) -> Tensor:
    y = torch.zeros_like(x)
    y[:, :2] = 2 * x[:, :2]
    for t in range(2, x.shape[1]):
        y[:, t] = A * y[:, t - 1].clone() + B * y[:, t - 2].clone() + x[:, t]
    return y


def the_second_stays_as_it_was(x: Tensor) -> Tensor:
    y = torch.ones_like(x)
    y[:, 0] = x[:, 0]
    for t in range(2, x.shape[1]):
        y[:, t] = A * y[:, t - 1].clone() + B * y[:, t - 2].clone() + x[:, t]
    return y


def history_in_front(x: Tensor) -> Tensor:
    y = torch.full((x.shape[0], x.shape[1] + 2, x.shape[2]), 0.5, dtype=x.dtype)
    for t in range(2, x.shape[1] + 2):
        y[:, t] = x[:, t - 2] + A * y[:, t - 1].clone() + B * y[:, t - 2].clone()
    return y[:, 2:]


def the_first_is_a_case_of_its_own(x: Tensor) -> Tensor:
    y = torch.zeros_like(x)
    for t in range(x.shape[1]):
        y[:, t] = x[:, t] if t == 0 else A * y[:, t - 1].clone() + x[:, t]
    return y


def folded_and_unfolded(x: Tensor) -> Tensor:
    h, ys = torch.zeros_like(x[:, 0]), []
    for t in range(x.shape[1]):
        h = A * h + x[:, t]
        ys.append(h)
    return torch.cat(ys, 1).view(x.shape)


@pytest.mark.parametrize(
    "function",
    [
        one_by_one,
        two_at_the_front,
        the_second_stays_as_it_was,
        the_first_is_a_case_of_its_own,
        history_in_front,
        folded_and_unfolded,
    ],
)
def test_step_by_step_and_split_anywhere(function: Callable[[Tensor], Tensor]) -> None:
    x = torch.randn(3, 11, 2, dtype=torch.float64)
    wanted = function(x)
    net: Any = linrec.compile(function)
    torch.testing.assert_close(net(x), wanted, rtol=1e-12, atol=1e-12)
    rnn = net.recurrent(x)
    for parts in ([1] * 11, [1, 1, 4, 5], [2, 9], [5, 6], [11]):
        state, found = None, []
        for piece in torch.split(x, parts, 1):
            y, state = rnn(piece, state=state)
            found.append(y)
        torch.testing.assert_close(torch.cat([y for y in found if y is not None], 1), wanted, rtol=1e-12, atol=1e-12)
    later, state = rnn(x[:, :6])
    y, _ = rnn.step(x[:, 6], state=state)
    torch.testing.assert_close(y, wanted[:, 6], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(later, wanted[:, :6], rtol=1e-12, atol=1e-12)
