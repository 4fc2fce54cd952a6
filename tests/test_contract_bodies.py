"""Loop bodies that change after the traced lengths: a compiled program follows at each length."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from cases import zeros
from contract import same, same_run, signal
from torch import Tensor

import linrec

pytestmark = pytest.mark.usefixtures("one_thread")
slow = pytest.mark.slow


def step_of_t(x: Tensor) -> Tensor:
    h = zeros(x)
    for t in range(x.shape[1]):
        h = (0.9 if t < 100 else 0.5) * h + x[:, t]
    return h


def index_saturates(x: Tensor) -> Tensor:
    h = zeros(x)
    for t in range(x.shape[1]):
        h = 0.9 * h + x[:, min(t, 200)]
    return h


def own_counter(x: Tensor) -> Tensor:
    h, k = zeros(x), 0
    for x_t in x.unbind(1):
        k += 1
        if k > 50:
            h = 0.5 * h
        h = 0.9 * h + x_t
    return h


def length_of_list(x: Tensor) -> Tensor:
    h = zeros(x)
    ys: list[Tensor] = []
    for x_t in x.unbind(1):
        h = 0.9 * h + x_t
        ys.append(h if len(ys) < 40 else -h)
    return torch.stack(ys, 1)


COEFFICIENTS = [0.9 - 0.002 * t for t in range(400)]


def list_of_floats(x: Tensor) -> Tensor:
    h = zeros(x)
    for t in range(x.shape[1]):
        h = COEFFICIENTS[t] * h + x[:, t]
    return h


def branch_on_length(x: Tensor) -> Tensor:
    h, a = zeros(x), 0.9
    if x.shape[1] > 100:
        a = 0.5
    for t in range(x.shape[1]):
        h = a * h + x[:, t]
    return h


def scaled_by_length(x: Tensor) -> Tensor:
    h = zeros(x)
    for t in range(x.shape[1]):
        h = 0.9 * h + x[:, t] / x.shape[1]
    return h * math.log(len(x[0]))


def last_step_differs(x: Tensor) -> Tensor:
    h = zeros(x)
    for t in range(x.shape[1]):
        h = (0.5 if t == x.shape[1] - 1 else 0.9) * h + x[:, t]
    return h


def every_64th_step(x: Tensor) -> Tensor:
    h = zeros(x)
    for t in range(x.shape[1]):
        if t % 64 == 63:
            h = torch.zeros_like(h)
        h = 0.9 * h + x[:, t]
    return h


def bit_of_t(x: Tensor) -> Tensor:
    h = zeros(x)
    for t in range(x.shape[1]):
        h = (0.9 - 0.1 * ((t >> 7) & 1)) * h + x[:, t]
    return h


def string_of_t(x: Tensor) -> Tensor:
    h = zeros(x)
    for t in range(x.shape[1]):
        h = (0.9 - 0.1 * (len(str(t)) == 3)) * h + x[:, t]
    return h


def membership_of_t(x: Tensor) -> Tensor:
    h = zeros(x)
    marked = {77, 130, 250}
    for t in range(x.shape[1]):
        h = 0.9 * h + x[:, t]
        if t in marked:
            h = h * 0.1
    return h


def exception_driven(x: Tensor) -> Tensor:
    h = zeros(x)
    table = {t: 0.9 for t in range(70)}
    for t in range(x.shape[1]):
        try:
            a = table[t]
        except KeyError:
            a = 0.4
        h = a * h + x[:, t]
    return h


def capped_range(x: Tensor) -> Tensor:
    h = zeros(x)
    for t in range(min(x.shape[1], 90)):
        h = 0.9 * h + x[:, t]
    return h


def skips_first_steps(x: Tensor) -> Tensor:
    h = zeros(x)
    for t in range(max(0, x.shape[1] - 80), x.shape[1]):
        h = 0.9 * h + x[:, t]
    return h


def breaks_at(x: Tensor) -> Tensor:
    h = zeros(x)
    for t in range(x.shape[1]):
        if t == 120:
            break
        h = 0.9 * h + x[:, t]
    return h


def continues_on(x: Tensor) -> Tensor:
    h = zeros(x)
    for t in range(x.shape[1]):
        if t == 95:
            continue
        h = 0.9 * h + x[:, t]
    return h


def window_of_states(x: Tensor) -> Tensor:
    h = zeros(x)
    recent: list[Tensor] = []
    for t in range(x.shape[1]):
        h = 0.9 * h + x[:, t]
        recent.append(h)
        if len(recent) > 75:
            recent.pop(0)
    return torch.stack(recent).sum(0)


def delayed_feedback(x: Tensor) -> Tensor:
    hs: list[Tensor] = []
    for t in range(x.shape[1]):
        hs.append(x[:, t] + (0.5 * hs[t - 66] if t >= 66 else 0))
    return torch.stack(hs, 1)


def branch_on_batch(x: Tensor) -> Tensor:
    h = zeros(x)
    for t in range(x.shape[1]):
        h = (0.9 if x.shape[0] < 4 else 0.3) * h + x[:, t]
    return h / x.shape[0]


def position_table(x: Tensor) -> Tensor:
    h = zeros(x)
    table = torch.linspace(0, 1, 500, dtype=x.dtype)
    for t in range(x.shape[1]):
        h = 0.9 * h + x[:, t] * table[t]
    return h


def depends_on_grad_mode(x: Tensor) -> Tensor:
    h = zeros(x)
    a = 0.9 if torch.is_grad_enabled() and x.requires_grad else 0.3
    for t in range(x.shape[1]):
        h = a * h + x[:, t]
    return h


CHANGING: list[Any] = [
    step_of_t,
    index_saturates,
    own_counter,
    pytest.param(length_of_list, marks=slow),
    list_of_floats,
    branch_on_length,
    pytest.param(scaled_by_length, marks=slow),
    last_step_differs,
    pytest.param(every_64th_step, marks=slow),
    pytest.param(bit_of_t, marks=slow),
    pytest.param(string_of_t, marks=slow),
    pytest.param(membership_of_t, marks=slow),
    pytest.param(exception_driven, marks=slow),
    pytest.param(capped_range, marks=slow),
    pytest.param(skips_first_steps, marks=slow),
    pytest.param(breaks_at, marks=slow),
    pytest.param(continues_on, marks=slow),
    window_of_states,
    pytest.param(delayed_feedback, marks=slow),
    pytest.param(branch_on_batch, marks=slow),
    pytest.param(position_table, marks=slow),
]


@pytest.mark.parametrize(
    ("lengths", "verify"),
    [
        ([(2, 8), (2, 260), (5, 20)], "off"),
        pytest.param([(2, 260), (2, 130)], "off", marks=slow),
        pytest.param([(2, 8), (2, 300)], "first", marks=slow),
        pytest.param([(2, 300), (2, 130)], "first", marks=slow),
    ],
    ids=["short then long", "long first", "short then long, checked", "long first, checked"],
)
@pytest.mark.parametrize("fn", CHANGING, ids=lambda f: f.__name__)
def test_bodies_that_change_later(fn: Any, lengths: list[tuple[int, int]], verify: str) -> None:
    net = linrec.compile(fn, verify=verify)
    for batch, steps in lengths:
        same_run(net, fn, signal(batch, steps, 3))


def test_grad_mode_read_by_the_program() -> None:
    net = linrec.compile(depends_on_grad_mode)
    for needed in (True, False, True):
        with torch.set_grad_enabled(needed):
            same(net(x := signal(2, 20, 3)), depends_on_grad_mode(x))
        same_run(net, depends_on_grad_mode, signal(2, 20, 3, grad=needed))
