"""States of odd shapes and reads of odd kinds: parallel at every length, and captured once."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
from cases import zeros
from contract import same_run, signal
from torch import Tensor

import linrec

pytestmark = pytest.mark.usefixtures("one_thread")


def scalars_at_two_lags(x: Tensor) -> Tensor:
    """States without an axis, one of which begins at a number."""
    heads = []
    for i in range(x.shape[1]):
        hs = [torch.ones_like(x[0, i]), torch.zeros_like(x[0, i])]
        for t in range(x.shape[0]):
            hs.append(0.4 * (0.5 - 0.9 * hs[-1] + 0.3 * hs[-2]) + x[t, i])
        heads.append(torch.stack(hs[2:]))
    return torch.stack(heads, -1)


def copies_of_what_is_returned(x: Tensor) -> Tensor:
    """`contiguous` of a row of the output is a copy of it, which may not be written to in its place."""
    out = torch.zeros(x.shape[0], x.shape[1] + 2, x.shape[2], dtype=x.dtype)
    for t in range(x.shape[1]):
        row = out[:, t + 1].contiguous().resolve_conj().resolve_neg()
        out[:, t + 2] = 0.3 * (row * 0.9**t - 0.3 * out[:, t]) + x[:, t]
    return out


def pairs_of_a_wider_row(x: Tensor) -> Tensor:
    """Two of three numbers as a complex one: rows lie three numbers apart."""
    h = torch.zeros_like(x[0])
    ys = []
    for t in range(x.shape[0]):
        u, rest = torch.split(torch.tanh(x[t]), [2, 1], dim=-1)
        pair = torch.view_as_complex(u.reshape(*u.shape[:-1], 1, 2).contiguous()) * 1j
        h = 0.5 * h + 2.0 * torch.cat([torch.view_as_real(pair).flatten(-2), rest], -1)
        ys.append(h)
    return torch.stack(ys)


def table_beside_a_mixed_batch(x: Tensor, table: Tensor) -> Tensor:
    """The batch is mixed, so its size must be known; that of the table need not be."""
    h, before = zeros(x), zeros(x)
    ys = []
    for t in range(x.shape[1]):
        h, before = 0.2 * (h * table[t] - 0.3 * before.sum() / 8) + x[:, t], h
        ys.append(before)
    return torch.stack(ys, 1)


@pytest.mark.parametrize(
    ("fn", "shape"),
    [
        (scalars_at_two_lags, (0, 2)),
        (copies_of_what_is_returned, (2, 0, 3)),
        (pairs_of_a_wider_row, (0, 3)),
        (pairs_of_a_wider_row, (0, 2, 3)),
    ],
)
def test_states_are_parallel(fn: Callable[..., Any], shape: tuple[int, ...], caplog: pytest.LogCaptureFixture) -> None:
    net: Any = linrec.compile(fn, verify="off")
    with caplog.at_level(logging.WARNING, "linrec"):
        for steps in (12, 64, 23):
            same_run(net, fn, signal(*(n or steps for n in shape)))
    assert not caplog.text
    report = linrec.report(net)
    assert report.captures == 1
    assert not report.code
    assert all(r.form != "sequential" for r in report.recurrences)


def test_a_table_is_as_long_as_the_call() -> None:
    net: Any = linrec.compile(table_beside_a_mixed_batch, verify="off")
    for steps in (12, 64, 23):
        same_run(net, table_beside_a_mixed_batch, signal(2, steps, 3), signal(steps))
    assert linrec.report(net).captures == 1
