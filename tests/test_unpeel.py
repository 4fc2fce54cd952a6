"""First and last steps that do what every step does are steps like the others: no warming up, no looking ahead."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from rowwise import assert_laws, assert_rows_end_alone, assert_rows_start_alone, random_inputs
from torch import Tensor

import linrec
from linrec.errors import StateError

TAPS = torch.tensor([0.3, -0.2, 0.1, 0.05], dtype=torch.float64)


def shifted_in_place(x: Tensor) -> Tensor:
    window, ys = x.new_zeros(x.shape[0], 4), []
    for t in range(x.shape[1]):
        new = x[:, t, 0] + (window * TAPS).sum(-1)
        window = torch.roll(window, 1, -1)
        window[:, 0] = new
        ys.append(new)
    return torch.stack(ys, 1)


def and_its_last_value(x: Tensor) -> tuple[Tensor, Tensor]:
    window, ys = x.new_zeros(x.shape[0], 4), []
    new = x[:, 0, 0]
    for t in range(x.shape[1]):
        new = x[:, t, 0] + (window * TAPS).sum(-1)
        window = torch.roll(window, 1, -1)
        window[:, 0] = new
        ys.append(new)
    return torch.stack(ys, 1), new.tanh()


def two_registers(x: Tensor) -> Tensor:
    left, right, ys = x.new_zeros(x.shape[0], 2), x.new_ones(x.shape[0], 2), []
    for t in range(x.shape[1]):
        y = x[:, t] + 0.3 * left.flip(-1) - 0.2 * right
        left = left.clone()
        left[:, 0] = y[:, 1]
        right = torch.roll(right, 1, -1)
        right[:, 0] = y[:, 0]
        ys.append(y)
    return torch.stack(ys, 1)


@pytest.mark.parametrize("program", [shifted_in_place, and_its_last_value, two_registers])
def test_a_last_step_without_its_update_is_a_step(program: Callable[[Tensor], Any]) -> None:
    make = random_inputs(2)
    assert not assert_laws(program, make).program.warmup
    assert_rows_end_alone(program, make)
    assert_rows_start_alone(program, make)


def test_a_state_that_reads_less_than_the_output_keeps_its_last_step_apart() -> None:
    def short_drive(x: Tensor) -> Tensor:
        window, drive, ys = x.new_zeros(x.shape[0], 2), x[:, :-1] * 2, []
        for t in range(x.shape[1]):
            y = x[:, t, 0] + (window * TAPS[:2]).sum(-1)
            ys.append(y)
            if t < x.shape[1] - 1:
                window = window.flip(-1)
                window[:, 0] = drive[:, t, 0]
        return torch.stack(ys, 1)

    x = torch.randn(2, 9, 3, dtype=torch.float64)
    net = linrec.compile(short_drive, verify="off")
    torch.testing.assert_close(net(x), short_drive(x))
    with pytest.raises(StateError, match=r"LR400[34]"):
        linrec.recurrent(net, x)


def another_last_step(x: Tensor) -> Tensor:
    h, ys = torch.zeros_like(x[:, 0]), []
    for t in range(x.shape[1] - 1):
        h = 0.5 * h + x[:, t]
        ys.append(h)
    ys.append(0.6 * h + x[:, -1])
    return torch.stack(ys, 1)


def the_state_before_the_last_step(x: Tensor) -> tuple[Tensor, Tensor]:
    h, ys = torch.zeros_like(x[:, 0]), []
    for t in range(x.shape[1] - 1):
        h = 0.5 * h + x[:, t]
        ys.append(h)
    ys.append(0.5 * h + x[:, -1])
    return torch.stack(ys, 1), h


def the_last_input_twice(x: Tensor) -> Tensor:
    h, ys = torch.zeros_like(x[:, 0]), []
    for t in range(x.shape[1] - 1):
        h = 0.5 * h + x[:, t]
        ys.append(h)
    ys.append(0.5 * h + x[:, -2])
    return torch.stack(ys, 1)


@pytest.mark.parametrize("program", [another_last_step, the_state_before_the_last_step, the_last_input_twice])
def test_a_last_step_of_its_own_is_refused_or_right(program: Callable[[Tensor], Any]) -> None:
    x = torch.randn(2, 9, 3, dtype=torch.float64)
    with pytest.raises(StateError, match=r"LR400[34]"):
        linrec.recurrent(linrec.compile(program, verify="off"), x)


def test_a_last_step_written_apart_that_is_the_same() -> None:
    def apart(x: Tensor) -> Tensor:
        h, ys = torch.zeros_like(x[:, 0]), []
        for t in range(x.shape[1] - 1):
            h = 0.5 * h + x[:, t]
            ys.append(h)
        ys.append(0.5 * h + x[:, -1])
        return torch.stack(ys, 1)

    assert_laws(apart, random_inputs(3), lengths=(13, 5, 2))
