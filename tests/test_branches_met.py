"""Branches that come out alike at some lengths: each choice is made by its own, whatever short traces show."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import linrec

LENGTHS = (12, 40, 13, 14, 15, 16, 17, 30, 31, 5, 7, 6, 4, 3, 2, 1)


def both_arms(x: Tensor, a: Tensor) -> tuple[Tensor, Tensor]:
    h, g = torch.zeros_like(x[0]), 0.5 * x[0]
    t, last = 0, x.shape[0] - 1
    while t <= last:
        h, g = (
            0.5 * h + 0.3 * g + x[t] if t % 3 != 2 else 0.5 * h + 0.3 * g,
            0.6 * (g + 0.3 * h) + x[t] if t != last else 0.3 * (g + 0.3 * h),
        )
        y = (g * x[t]).sum(-1)
        t += 1
    return y, h


def one_after_the_other(x: Tensor, a: Tensor) -> Tensor:
    h, ys = torch.zeros_like(x[0]), []
    for t in range(x.shape[0]):
        v = x[t]
        if t % 3 != 2:
            v = torch.tanh(x[t])
        if t == x.shape[0] - 1:
            v = 0.3 * x[t]
        h = a * h + v
        ys.append(h)
    return torch.stack(ys)


def between_two_that_stay(x: Tensor, a: Tensor) -> Tensor:
    h, b = torch.zeros_like(x[0]), 0.5 * a
    for t in range(x.shape[0]):
        if t % 3 != 2:
            h = h + 1.0
        h = (a if t != x.shape[0] - 1 else b) * h + x[t]
    return h


def first_by_its_own(x: Tensor, a: Tensor) -> Tensor:
    """What the first step reads depends on the remainder of T by 3."""
    h, g = 0.5 * x[0], torch.ones_like(x[0])
    ys = []
    for t in range(x.shape[0] - 1, -1, -1):
        h = 0.7 * (h - 0.3 * g) + x[t] if t != x.shape[0] - 1 else 0.5 * (h - 0.3 * g)
        g = 0.6 * (g + 0.3 * h) + x[t] if t % 3 != 2 else 0.4 * (g + 0.3 * h)
        ys.append(a * g)
    return torch.stack(ys)


def ring_that_rests_at_last(x: Tensor, a: Tensor) -> Tensor:
    ring = [x[0] for _ in range(2)]
    ys = []
    for t in range(x.shape[0]):
        ring[t % 2] = a * ring[t % 2] + x[t] if t != x.shape[0] - 1 else ring[t % 2]
        ys.append(ring[t % 2])
    return torch.stack(ys)


def slot_that_the_first_step_fills(x: Tensor, a: Tensor) -> tuple[Tensor, Tensor]:
    ring = [torch.zeros_like(x[0]) for _ in range(2)]
    ys = []
    for t in range(x.shape[0]):
        ring[t % 2] = a * ring[t % 2] + x[t] if t > 0 else 0.5 * x[t]
        ys.append(ring[t % 2])
    return torch.stack(ys), ring[0]


PROGRAMS: list[Callable[..., Any]] = [
    both_arms, one_after_the_other, between_two_that_stay, first_by_its_own, ring_that_rests_at_last,
    slot_that_the_first_step_fills,
]  # fmt: skip


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda f: f.__name__)
def test_each_choice_has_its_own_branch(program: Callable[..., Any]) -> None:
    compiled: Any = linrec.compile(program, verify="off")
    a = torch.tensor([0.9, 0.5, -0.3], dtype=torch.float64)
    for length in LENGTHS:
        x = torch.randn(length, 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(length))
        torch.testing.assert_close(compiled(x, a), program(x, a), rtol=1e-12, atol=1e-12, msg=f"T={length}")
    report = linrec.report(compiled)
    assert not report.code
    assert report.recurrences and all(r.form != "sequential" for r in report.recurrences)


# fmt: off
def on_one_line(x: Tensor, a: Tensor) -> Tensor:
    h, ys = torch.zeros_like(x[0]), []
    steps = x.shape[0]
    for t in range(steps):
        if t < steps - 2: h = a * h + x[t]  # noqa: E701
        elif t == steps - 1: h = 2 * h  # noqa: E701
        ys.append(h)
    return torch.stack(ys)
# fmt: on


def of_other_steps(x: Tensor, a: Tensor) -> Tensor:
    h, g = torch.zeros_like(x[0]), x[0]
    steps = x.shape[0]
    for t in range(steps):
        u = x[t]
        if t == 1:
            u = g
        if t == steps - 2:
            u = h
        if t % 2 == 0:
            g = u + g
        h = a * h + u
    return h


def third_last(x: Tensor, a: Tensor) -> Tensor:
    """Which arm made what is read depends on the remainder of T by 5."""
    h = g = torch.zeros_like(x[0])
    ys: list[Tensor] = []
    steps = x.shape[0]
    for t in range(steps):
        if t == steps - 1:
            g = ys[-3]
        h = a * h + x[t] if t % 5 == 2 else 0.5 * h - x[t]
        ys.append(h)
    return g


def fourth_of_the_reverse(x: Tensor, a: Tensor) -> Tensor:
    h, ys = torch.zeros_like(x[0]), []
    for t in range(x.shape[0] - 1, -1, -1):
        h = a * h + x[t] if t % 5 == 1 else 0.5 * h - x[t]
        ys.append(h)
    return ys[3]


def oldest_of_a_queue(x: Tensor, a: Tensor) -> Tensor:
    g = torch.zeros_like(x[0])
    past = deque([g] * 3, maxlen=3)
    steps = x.shape[0]
    for t in range(steps):
        if t == steps - 1:
            g = past[0]
        past.append(a * x[t] if t % 5 == 2 else a + x[t])
    return g


slow = pytest.mark.slow


@pytest.mark.parametrize("first", (12, 31))
@pytest.mark.parametrize(
    "program",
    (
        on_one_line,
        pytest.param(of_other_steps, marks=slow),
        pytest.param(third_last, marks=slow),
        pytest.param(fourth_of_the_reverse, marks=slow),
        pytest.param(oldest_of_a_queue, marks=slow),
    ),
)
def test_reads_near_an_end(program: Callable[..., Any], first: int) -> None:
    compiled: Any = linrec.compile(program, verify="off")
    a = torch.tensor([0.9, 0.5, -0.3], dtype=torch.float64)
    for length in (first, 6, 15, 16, 25, 26, 30, 31, 33, 41, 46):
        x = torch.randn(length, 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(length))
        torch.testing.assert_close(compiled(x, a), program(x, a), rtol=1e-12, atol=1e-12, msg=f"T={length}")
