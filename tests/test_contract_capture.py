"""Programs that cannot be captured whole: exact all the same, refused with a code and a place."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from contract import same_run, signal
from torch import Tensor

import linrec

pytestmark = pytest.mark.usefixtures("one_thread")
slow = pytest.mark.slow


def branch_on_state(x: Tensor) -> Tensor:
    h = x[:, 0]
    for t in range(1, x.shape[1]):
        if h.sum() > 0:
            h = h * 0.5 + x[:, t]
        else:
            h = h * 0.9 - x[:, t]
    return h


def item_in_the_loop(x: Tensor) -> Tensor:
    h = x[:, 0]
    for t in range(1, x.shape[1]):
        h = h * min(0.9, abs(x[0, t, 0].item())) + x[:, t]
    return h


def numpy_in_the_loop(x: Tensor) -> Tensor:
    h = x[:, 0]
    for t in range(1, x.shape[1]):
        h = h * 0.5 + torch.from_numpy(x[:, t].detach().numpy() * 2)
    return h


def length_from_values(x: Tensor) -> Tensor:
    h = x[:, 0]
    for t in range(int(x.detach().abs().sum()) % x.shape[1]):
        h = h * 0.5 + x[:, t]
    return h


def stop_early(x: Tensor) -> Tensor:
    h = x[:, 0]
    for t in range(1, x.shape[1]):
        h = h * 0.5 + x[:, t]
        if h[0, 0] > 1:
            break
    return h


class Straight(torch.autograd.Function):
    """Rounds forward, passes three times the gradient backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return torch.round(x * 4) / 4

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return grads[0] * 3


straight: Callable[[Tensor], Tensor] = Straight.apply


def custom_function_on_the_input(x: Tensor) -> Tensor:
    h = x[:, 0]
    for t in range(1, x.shape[1]):
        h = h * 0.5 + straight(x[:, t])
    return h


def custom_function_on_the_state(x: Tensor) -> Tensor:
    h = x[:, 0]
    for t in range(1, x.shape[1]):
        h = straight(h) * 0.5 + x[:, t]
    return h


def gradient_hook_on_the_state(x: Tensor) -> Tensor:
    h = x[:, 0]
    for t in range(1, x.shape[1]):
        h = h * 0.5 + x[:, t]
        if h.requires_grad:
            halve: Any = h.register_hook
            halve(lambda g: g * 0.5)
    return h


def no_grad_part(x: Tensor) -> Tensor:
    h = x[:, 0]
    for t in range(1, x.shape[1]):
        with torch.no_grad():
            k = h * 0.25
        h = h * 0.5 + k + x[:, t]
    return h


def conjugate_state(x: Tensor) -> Tensor:
    h = torch.complex(x[:, 0], x[:, 0] * 0)
    for t in range(1, x.shape[1]):
        h = h.conj() * (0.5 + 0.3j) + x[:, t]
    return torch.view_as_real(h)


def no_loop_at_all(x: Tensor) -> Tensor:
    return torch.tanh(x).cumsum(1)


def gather_from_the_past(x: Tensor) -> Tensor:
    hs = [x[:, 0]]
    for t in range(1, x.shape[1]):
        hs.append(0.5 * hs[t // 2] + x[:, t])
    return torch.stack(hs, 1)


def all_past_states(x: Tensor) -> Tensor:
    hs = [x[:, 0]]
    for t in range(1, x.shape[1]):
        hs.append(0.5 * torch.stack(hs).mean(0) + x[:, t])
    return torch.stack(hs, 1)


def nested_loops(x: Tensor) -> Tensor:
    h = x[:, 0]
    for t in range(1, x.shape[1]):
        for _ in range(3):
            h = 0.8 * h + 0.1 * x[:, t]
    return h


def triangle_of_reads(x: Tensor) -> Tensor:
    ys = []
    for t in range(x.shape[1]):
        y = x[:, t] * 0
        for s in range(t + 1):
            y = y + 0.9 ** (t - s) * x[:, s]
        ys.append(y)
    return torch.stack(ys, 1)


REFUSED = [branch_on_state, item_in_the_loop, numpy_in_the_loop, length_from_values, stop_early]
ODD: list[Any] = [
    *REFUSED,
    custom_function_on_the_input,
    custom_function_on_the_state,
    gradient_hook_on_the_state,
    no_grad_part,
    conjugate_state,
    pytest.param(no_loop_at_all, marks=slow),
    gather_from_the_past,
    pytest.param(all_past_states, marks=slow),
    nested_loops,
    pytest.param(triangle_of_reads, marks=slow),
]


@pytest.mark.parametrize("fn", ODD, ids=lambda f: f.__name__)
def test_odd_programs_are_exact(fn: Any) -> None:
    net = linrec.compile(fn)
    for batch, steps in ((2, 9), (2, 30), (3, 3), (2, 1)):
        same_run(net, fn, signal(batch, steps, 3))
    assert str(linrec.report(net))


@pytest.mark.parametrize("fn", REFUSED, ids=lambda f: f.__name__)
def test_refusals_have_a_code_and_a_place(fn: Any) -> None:
    report = linrec.explain(fn, signal(2, 9, 3))
    refusals = [(report.code, report.reason, report.source)]
    refusals += [(r.code, r.reason, r.source) for r in report.recurrences if r.form == "sequential"]
    assert any(re.match(r"LR\d{4}", code) and reason for code, reason, _ in refusals), refusals
    assert any(re.search(r"test_contract_capture\.py:\d+", source) for _, _, source in refusals), refusals
