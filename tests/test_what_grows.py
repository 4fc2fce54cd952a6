"""What a loop counts, keeps or sets anew: read once where the code says what it is at any length, right everywhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from contract import same_run
from torch import Tensor

import linrec

LENGTHS = (13, 1, 2, 3, 29, 30, 31, 64)
ONCE: list[Callable[..., Any]] = []
RIGHT: list[Callable[..., Any]] = []


def once(function: Callable[..., Any]) -> Callable[..., Any]:
    """One capture serves every length."""
    ONCE.append(function)
    return function


def right(function: Callable[..., Any]) -> Callable[..., Any]:
    """It may be captured anew, but is the same."""
    RIGHT.append(function)
    return function


@once
def mean_by_a_count(x: Tensor) -> Any:
    s, n = torch.zeros_like(x[0]), 0
    for u in x:
        s = s + u
        n += 1
    return s / n


@once
def mean_by_enumerate(x: Tensor) -> Any:
    s = torch.zeros_like(x[0])
    for n, u in enumerate(x, 1):  # noqa: B007
        s = s + u
    return s / n, s * (1.0 / n)


@once
def counted_by_two(x: Tensor) -> Any:
    s, n = torch.zeros_like(x[0]), 1
    for u in x:
        s = s + u
        n += 2
    return s / n, s * n, s - n, n, s * n**0.5


@once
def running_and_last_mean(x: Tensor) -> Any:
    s, n, ys = torch.zeros_like(x[0]), 0, []
    for u in x:
        s = s + u
        n += 1
        ys.append(s / n)
    return torch.stack(ys), s / n


@once
def set_anew(x: Tensor) -> Any:
    h, ys = torch.ones_like(x[0]), []
    for t in range(len(x)):
        h = 0.9 * h + x[t]
        if t % 4 == 3:
            h = torch.zeros(3, dtype=torch.float64)
        ys.append(h)
    return torch.stack(ys)


@once
def set_anew_after_it_is_kept(x: Tensor) -> Any:
    h, ys = torch.zeros(3, dtype=torch.float64), []
    for t in range(len(x)):
        h = 0.9 * h + x[t]
        ys.append(h)
        if t % 4 == 3:
            h = torch.zeros(3, dtype=torch.float64)
    return torch.stack(ys)


@once
def two_time_scales(x: Tensor) -> Any:
    high, low, ys = torch.zeros(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64), []
    for t in range(len(x)):
        low = 0.9 * low + x[t] + 0.1 * high
        if t % 4 == 3:
            high = 0.5 * high + low
            low = torch.zeros(3, dtype=torch.float64)
        ys.append(low + high)
    return torch.stack(ys)


@once
def queue_by_pop(x: Tensor) -> Any:
    queue, ys = [torch.zeros_like(x[0]) for _ in range(3)], []
    for t in range(len(x)):
        y = x[t] + 0.5 * queue.pop(0)
        queue.append(y)
        ys.append(y)
    return torch.stack(ys)


@once
def long_queue(x: Tensor) -> Any:
    queue, ys = [torch.zeros_like(x[0]) for _ in range(20)], []
    for t in range(len(x)):
        y = x[t] + 0.5 * queue[-1]
        queue.insert(0, y)
        queue.pop()
        ys.append(y)
    return torch.stack(ys)


@once
def layers_that_are_counted(x: Tensor) -> Any:
    states, ys = [torch.zeros_like(x[0])] * 2, []
    for t in range(len(x)):
        u, k = x[t], 0
        for i in range(2):
            k += 1
            states[i] = 0.5 / k * states[i] + u
            u = states[i]
        ys.append(u)
    return torch.stack(ys)


@once
def counted_for_nothing(x: Tensor) -> Any:
    h, seen = torch.zeros_like(x[0]), 0
    for t in range(len(x)):
        h = 0.5 * h + x[t]
        if t % 10 == 9:
            seen += 1
    return h


@right
def counted_now_and_then(x: Tensor) -> Any:
    s, n = torch.zeros_like(x[0]), 0
    for t, u in enumerate(x):
        s = s + u
        if t % 10 == 9:
            n += 1
    return s / (n + 1)


@right
def the_last_of_every_ninth(x: Tensor) -> Any:
    h, best = torch.zeros_like(x[0]), 0
    for t in range(len(x)):
        h = 0.9 * h + x[t]
        if t % 9 == 0:
            best = t
    return h + x[best]


@right
def every_ninth_kept(x: Tensor) -> Any:
    h, kept = torch.zeros_like(x[0]), []
    for t in range(len(x)):
        h = 0.9 * h + x[t]
        if t % 9 == 0:
            kept.append(h)
    return torch.stack(kept), len(kept)


@right
def every_twelfth_in_a_dictionary(x: Tensor) -> Any:
    h, kept = torch.zeros_like(x[0]), {}
    for t in range(len(x)):
        h = 0.9 * h + x[t]
        if t % 12 == 0:
            kept["k"] = h
    return h * kept["k"]


@right
def counted_up_to_a_break(x: Tensor) -> Any:
    s, n = torch.zeros_like(x[0]), 0
    for u in x:
        if n >= 20:
            break
        s = s + u
        n += 1
    return s / n


@right
def counted_by_two_loops(x: Tensor) -> Any:
    s, n = torch.zeros_like(x[0]), 0
    for u in x:
        s = s + u
        n += 1
    for u in x:
        s = 0.5 * s + u
        n += 1
    return s / n


@right
def a_list_made_short(x: Tensor) -> Any:
    h, ys = torch.zeros_like(x[0]), []
    for t in range(len(x)):
        h = 0.5 * h + x[t]
        ys.append(h)
        if len(ys) > 20:
            ys.pop(0)
    return sum(ys)


def judged(program: Callable[..., Any]) -> linrec.Report:
    made = linrec.compile(program, verify="off")
    for steps in LENGTHS:
        same_run(made, program, torch.randn(steps, 3, dtype=torch.float64, requires_grad=True))
    return linrec.report(made)


@pytest.mark.parametrize("program", ONCE, ids=lambda f: f.__name__)
def test_one_capture_serves_every_length(program: Callable[..., Any]) -> None:
    report = judged(program)
    assert report.captures == 1 and report.recurrences, f"{report.code} {report.reason}"
    assert all(r.kind != "nonlinear" and r.form != "sequential" for r in report.recurrences)


SLOW = {the_last_of_every_ninth, every_twelfth_in_a_dictionary}


@pytest.mark.parametrize(
    "program",
    [pytest.param(f, marks=pytest.mark.slow) if f in SLOW else f for f in RIGHT],
    ids=[f.__name__ for f in RIGHT],
)
def test_what_longer_calls_make_another_is_the_same(program: Callable[..., Any]) -> None:
    judged(program)


def test_a_state_that_is_one_number_beside_a_comprehension() -> None:
    """Lists are asked how long they are, numbers and tensors without axes are not."""

    def program(x: Tensor) -> Tensor:
        h, ys = torch.zeros((), dtype=x.dtype), []
        for t in range(len(x)):
            parts = [part.reshape(1) for part in (h, x[t]) if isinstance(part, Tensor)]
            h = 0.5 * parts[0].sum() + parts[1].sum()
            ys.append(h)
        return torch.stack(ys)

    made = linrec.compile(program, verify="off")
    for steps in LENGTHS:
        same_run(made, program, torch.randn(steps, dtype=torch.float64, requires_grad=True))
    assert [r.kind for r in linrec.report(made).recurrences] == ["lti"]
