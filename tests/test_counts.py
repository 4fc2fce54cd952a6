"""Functions of t step by step: the count of steps is a part of the state, and common to the rows of a batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import test_functions_of_time as functions
import torch
from laws import leaves_of
from rowwise import assert_laws, assert_rows_end_alone, assert_rows_start_alone, random_inputs
from torch import Tensor, nn

import linrec
from linrec.errors import StateError
from linrec.streaming import Stream

MAKE = random_inputs(3)


def mean_from_the_first(x: Tensor) -> Tensor:
    h = x[:, 0]
    ys = [h]
    for t in range(1, x.shape[1]):
        h = h * (t / (t + 1)) + x[:, t] / (t + 1)
        ys.append(h)
    return torch.stack(ys, 1)


def bias_corrected(x: Tensor) -> Tensor:
    m = v = torch.zeros_like(x[:, 0])
    ys = []
    for t in range(x.shape[1]):
        m = 0.9 * m + 0.1 * x[:, t]
        v = 0.99 * v + 0.01 * x[:, t] ** 2
        ys.append(m / (1 - 0.9 ** (t + 1)) / ((v / (1 - 0.99 ** (t + 1))).sqrt() + 1e-8))
    return torch.stack(ys, 1)


def two_rings(x: Tensor) -> Tensor:
    threes, twos = [torch.zeros_like(x[:, 0]) for _ in range(3)], [torch.ones_like(x[:, 0]) for _ in range(2)]
    ys = []
    for t in range(x.shape[1]):
        threes[t % 3] = 0.8 * threes[t % 3] + x[:, t] * (0.5 if t % 2 else 1.0)
        twos[t % 2] = 0.7 * twos[t % 2] + threes[t % 3]
        ys.append(twos[t % 2] + threes[t % 3] / (t + 1))
    return torch.stack(ys, 1)


def positions(x: Tensor) -> Tensor:
    x = x + torch.sin(torch.arange(x.shape[1], dtype=x.dtype))[None, :, None]
    h, ys = torch.zeros_like(x[:, 0]), []
    for t in range(x.shape[1]):
        h = 0.9 * h + x[:, t]
        ys.append(h)
    return torch.stack(ys, 1) / torch.arange(1, x.shape[1] + 1, dtype=x.dtype)[:, None]


class Table(nn.Module):
    """Learned positions, read one a step and as a slice."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.randn(40, 3, dtype=torch.float64))
        self.shift = nn.Parameter(torch.randn(40, 3, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.shift[: x.shape[1]]
        h, ys = torch.zeros_like(x[:, 0]), []
        for t in range(x.shape[1]):
            h = 0.9 * h + x[:, t] * self.scale[t]
            ys.append(h)
        return torch.stack(ys, 1)


COUNTING: list[Callable[[Tensor], Tensor]] = [
    functions.over, functions.threshold, functions.periodic, functions.exponential, functions.chosen, functions.clipped,
    functions.counted, bias_corrected, two_rings, positions, Table(),
]  # fmt: skip


def named(program: Any) -> str:
    return getattr(program, "__name__", type(program).__name__)


@pytest.mark.parametrize("program", COUNTING, ids=named)
def test_the_count_is_part_of_the_state(program: Callable[[Tensor], Tensor]) -> None:
    rnn = assert_laws(program, MAKE)
    assert "t" in {leaf.name for leaf in rnn.leaves} and not rnn.program.warmup
    _, state = rnn(*MAKE(2, 7))
    assert state["t"].item() == 7


def test_a_ring_of_delays_needs_no_count() -> None:
    rnn = assert_laws(functions.ring_up, MAKE)
    assert [leaf.type.shape[0] for leaf in rnn.leaves] == [rnn.leaves[0].type.shape[0]] * 4
    assert_rows_end_alone(functions.ring_up, MAKE)
    assert_rows_start_alone(functions.ring_up, MAKE)


def test_a_count_from_the_second_step() -> None:
    rnn = assert_laws(mean_from_the_first, MAKE)
    x = torch.randn(2, 9, 3, dtype=torch.float64)
    torch.testing.assert_close(rnn(x)[0], x.cumsum(1) / torch.arange(1, 10)[:, None])


@pytest.mark.parametrize("program", COUNTING, ids=named)
def test_rows_count_from_their_own_start(program: Callable[[Tensor], Tensor]) -> None:
    """Padding and resets in a call are exact: each segment is a sequence that counts from 0."""
    assert_rows_end_alone(program, MAKE)
    assert_rows_start_alone(program, MAKE)


@pytest.mark.parametrize("program", COUNTING, ids=named)
def test_one_state_holds_one_count(program: Callable[[Tensor], Tensor]) -> None:
    """Rows that have taken different numbers of steps have no state in common, and none is made up."""
    net: Any = linrec.compile(program, verify="off")
    (x,) = MAKE(3, 9)
    with pytest.raises(StateError, match=r"LR4008.*'t'"):
        net(x, lengths=torch.tensor([9, 4, 7]), return_state=True)
    marks = torch.zeros(3, 9, dtype=torch.bool)
    marks[1, 4] = True
    with pytest.raises(StateError, match=r"LR4008.*'t'"):
        net(x, reset_mask=marks, return_state=True)
    y, state = net(x, lengths=torch.tensor([6, 6, 6]), return_state=True)
    assert state["t"].item() == 6 and not y[:, 6:].any()
    torch.testing.assert_close(net(x[:, 6:], state=state), program(x)[:, 6:], rtol=1e-9, atol=1e-9)
    stream = Stream(linrec.recurrent(net, x), 3)  # type: ignore[arg-type]
    stream(x[:, :5])
    with pytest.raises(StateError, match=r"LR4008.*t"):
        stream.reset(torch.tensor([True, False, False]))
    torch.testing.assert_close(stream(x[:, 5:]), program(x)[:, 5:], rtol=1e-9, atol=1e-9)
    stream.reset()
    torch.testing.assert_close(leaves_of(stream(x))[0], program(x), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("program", [functions.last_step, functions.backward, functions.ring_down], ids=named)
def test_what_counts_from_the_end_is_refused_with_its_line(program: Callable[[Tensor], Tensor]) -> None:
    with pytest.raises(StateError, match="LR4003") as found:
        linrec.recurrent(linrec.compile(program, verify="off"), *MAKE(2, 9))
    first = program.__code__.co_firstlineno
    assert found.value.line is not None and first < found.value.line < first + 10
