"""Every way to run a program with a state, against the program as written, row by row where rows end or start alone.

Programs here take tensors of (batch, time, ...) and return such, or (batch, ...) for the last step.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from laws import assert_same_run, by_steps, in_chunks, leaves_of, measured, whole
from torch import Tensor

import linrec
from linrec.recurrence import RecurrentModule

Make = Callable[[int, int], list[Tensor]]  # inputs of a batch and a length


def random_inputs(*sizes: int) -> Make:
    """One normal input of (batch, time, *sizes)."""
    return lambda batch, steps: [torch.randn(batch, steps, *sizes, dtype=torch.float64)]


def assert_laws(program: Callable[..., Any], make: Make, lengths: Sequence[int] = (13, 5, 1, 29)) -> RecurrentModule:
    """Whole as written; steps and splits as whole, with states and gradients."""
    rnn = form_of(linrec.compile(program, verify="off"), *make(3, 13))
    for steps in lengths:
        inputs = make(3, steps)
        run = measured(whole, rnn, inputs)
        for got, want in zip(leaves_of(run[0][0]), leaves_of(program(*inputs)), strict=True):
            torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9)
        assert_same_run(measured(by_steps, rnn, inputs), run, f"steps and whole, {steps} steps", 1e-8)
        for sizes in ([1, 1, 1], [2, 3, 5], [7], [12]):
            assert_same_run(measured(in_chunks(sizes), rnn, inputs), run, f"chunks {sizes}, {steps} steps", 1e-8)
    return rnn


def form_of(compiled: Any, *inputs: Tensor) -> RecurrentModule:
    """The recurrent form of a compiled program."""
    rnn = linrec.recurrent(compiled, *inputs)
    assert isinstance(rnn, RecurrentModule)
    return rnn


def rows_of(inputs: Sequence[Tensor], row: int, start: int, stop: int) -> list[Tensor]:
    """Some steps of one row."""
    return [x[row : row + 1, start:stop] for x in inputs]


def assert_rows_end_alone(program: Callable[..., Any], make: Make) -> None:
    """`lengths`: every row as the sequence it is, zero behind it."""
    ends, inputs = [13, 4, 9, 1], make(4, 13)
    compiled: Any = linrec.compile(program, verify="off")
    results = leaves_of(compiled(*inputs, lengths=torch.tensor(ends)))
    outputs = form_of(compiled).program.outputs
    for row, end in enumerate(ends):
        for got, want, axis in zip(results, leaves_of(program(*rows_of(inputs, row, 0, end))), outputs, strict=True):
            mine = got[row : row + 1, : want.shape[1]] if isinstance(axis, int) else got[row : row + 1]
            torch.testing.assert_close(mine, want, rtol=1e-9, atol=1e-9)
            if isinstance(axis, int):
                assert not got[row, want.shape[1] :].any()


def assert_rows_start_alone(program: Callable[..., Any], make: Make) -> None:
    """`reset_mask`: a row is a new sequence from each mark on."""
    mask = torch.zeros(4, 13, dtype=torch.bool)
    mask[0, 5] = mask[1, 0] = mask[1, 3] = mask[1, 9] = mask[2, 12] = True
    mask[3, 1:4] = True
    inputs = make(4, 13)
    compiled: Any = linrec.compile(program, verify="off")
    results = leaves_of(compiled(*inputs, reset_mask=mask))
    outputs = form_of(compiled).program.outputs
    for row in range(4):
        cuts = sorted({0, 13, *mask[row].nonzero().flatten().tolist()})
        parts = [leaves_of(program(*rows_of(inputs, row, a, b))) for a, b in itertools.pairwise(cuts)]
        for n, (got, axis) in enumerate(zip(results, outputs, strict=True)):
            want = torch.cat([p[n] for p in parts], 1) if isinstance(axis, int) else parts[-1][n]
            torch.testing.assert_close(got[row : row + 1], want, rtol=1e-9, atol=1e-9)
