"""Rows that end or start on their own: what lets rows of the batch touch each other is refused, by name and line."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

import linrec
from linrec.errors import StateError

LENGTHS = (9, 5, 3, 9)


def smoothed(x: Tensor) -> Tensor:
    h = torch.zeros_like(x[:, 0])
    ys = []
    for t in range(x.shape[1]):
        h = 0.9 * h + x[:, t]
        ys.append(h)
    return torch.stack(ys, 1)


MIXED: dict[str, Callable[[Tensor], Tensor]] = {
    "flip": lambda y: y.flip(0),
    "softmax": lambda y: y.softmax(0),
    "sum": lambda y: y - y.sum(0, keepdim=True),
    "roll": lambda y: y.roll(1, 0),
    "sort": lambda y: y.sort(0).values,
    "amax": lambda y: y - y.amax(0),
    "matmul": lambda y: (y.transpose(0, 2) @ torch.ones(y.shape[0], y.shape[0]).to(y)).transpose(0, 2),
    "maximum": lambda y: torch.maximum(y, y.flip(0)),
}
APART: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "layer_norm": lambda y: functional.layer_norm(y, (3,)),
    "channels": lambda y: y.flip(2),
    "where": lambda y: torch.where(y > 0, y, y * 0),
    "logs": lambda y: torch.log(y),  # NaN for some numbers, in their own row
}


@pytest.mark.parametrize("name", MIXED)
def test_rows_that_touch_each_other_are_refused(name: str) -> None:
    def net(x: Tensor) -> Tensor:
        return MIXED[name](smoothed(x))

    compiled: Any = linrec.compile(net)
    x = torch.randn(4, 9, 3, dtype=torch.float64)
    with pytest.raises(StateError, match=f"LR400[38].*`{'flip' if name == 'maximum' else name}`"):
        compiled(x, lengths=torch.tensor(LENGTHS))


@pytest.mark.parametrize("final", [False, True])
@pytest.mark.parametrize("name", APART)
def test_rows_that_stay_apart_end_on_their_own(name: str, final: bool) -> None:
    def net(x: Tensor) -> Tensor:
        y = APART[name](smoothed(x))
        return y[:, -1] if final else y

    compiled: Any = linrec.compile(net)
    x = torch.randn(4, 9, 3, dtype=torch.float64)
    for n, steps in enumerate(LENGTHS):
        x[n, steps:] = torch.nan
    got = compiled(x, lengths=torch.tensor(LENGTHS))
    for row, steps in enumerate(LENGTHS):
        found = got[row] if final else got[row, :steps]
        torch.testing.assert_close(found, net(x[row : row + 1, :steps])[0], equal_nan=True, rtol=1e-12, atol=1e-12)


def test_other_free_sizes_than_batch_and_time() -> None:
    compiled: Any = linrec.compile(lambda x: smoothed(x)[:, -1])
    for channels in (3, 5):
        x = torch.randn(3, 6, channels, dtype=torch.float64)
        got = compiled(x, lengths=torch.tensor([6, 2, 4]))
        for row, steps in enumerate((6, 2, 4)):
            torch.testing.assert_close(got[row], smoothed(x[row : row + 1, :steps])[0, -1])


def test_tokens_in_the_padding_are_never_looked_up() -> None:
    table = torch.nn.Embedding(7, 3).double()
    compiled: Any = linrec.compile(lambda x: smoothed(table(x)))
    x = torch.randint(0, 7, (3, 6))
    plain = x.clone()
    x[1, 2:] = -1
    got = compiled(plain, lengths=torch.tensor([6, 2, 4]))
    torch.testing.assert_close(got[1, :2], smoothed(table(plain[1:2]))[0, :2])
    again = compiled(x, lengths=torch.tensor([6, 2, 4]))
    torch.testing.assert_close(again, got)


@pytest.mark.parametrize("lengths", [torch.ones(2, dtype=torch.bool), torch.ones(2) + 1j, "ab", [None, 1]])
def test_lengths_are_integers(lengths: Any) -> None:
    net: Any = linrec.compile(smoothed)
    x = torch.randn(2, 5, 3)
    net(x)
    for asked in (False, True):
        with pytest.raises(StateError, match="LR4008"):
            net(x, lengths=lengths, return_state=asked)
