"""Inputs of other layouts, widths, types and lengths, those among them that the program itself refuses."""

from __future__ import annotations

import time
from typing import Any

import pytest
import torch
from cases import LTI
from contract import A3, called_before, converted, leaky, same, same_answer, same_failure, same_run, signal
from torch import Tensor

import linrec

pytestmark = pytest.mark.usefixtures("one_thread")
slow = pytest.mark.slow


@pytest.mark.parametrize(
    "make",
    [
        lambda: signal(2, 20, 6)[..., ::2],
        lambda: signal(20, 2, 3).transpose(0, 1),
        lambda: signal(2, 3, 20).mT,
        lambda: signal(1, 20, 3).expand(2, -1, -1),
        lambda: signal(2, 1, 3).expand(-1, 20, -1),
        lambda: signal(2, 40, 3)[:, 10:30].flip(1),
        lambda: torch.zeros(2, 20, 3, dtype=torch.float64),
        lambda: torch.view_as_complex(signal(2, 20, 3, 2)).conj().imag,
    ],
)
@pytest.mark.parametrize("traced", [True, pytest.param(False, marks=slow)])
def test_layouts(make: Any, traced: bool) -> None:
    net = called_before() if traced else linrec.compile(leaky)
    x = make().detach().requires_grad_()
    same_run(net, leaky, x, A3.clone().requires_grad_())
    converted(net)


def test_widths_never_traced() -> None:
    net: Any = linrec.compile(leaky)
    for width in (3, 5, 1, 2):
        same_run(net, leaky, signal(2, 12, width), signal(width))
    same_run(net, leaky, signal(2, 12, 3), signal())
    same_run(net, leaky, signal(2, 12, 3), signal(1))
    same_run(net, leaky, signal(2, 12, 3), signal(2, 1))
    same_run(net, leaky, signal(2, 12, 1), signal(4))  # the state widens at the first step


REFUSED_ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "width": (torch.zeros(2, 9, 4), torch.ones(3)),
    "no batch": (torch.zeros(9, 3), torch.ones(3)),
    "one axis more": (torch.zeros(2, 9, 3, 1), torch.ones(3)),
    "matrix decay": (torch.zeros(2, 9, 3), torch.ones(2, 9)),
    "string": (torch.zeros(2, 9, 3), "0.9"),
    "none": (None, torch.ones(3)),
    "no steps": (torch.zeros(2, 0, 3), torch.ones(3)),
    "nothing at all": (torch.zeros(0, 0, 3), torch.ones(3)),
    "one missing": (torch.zeros(2, 9, 3),),
    "one too many": (torch.zeros(2, 9, 3), torch.ones(3), 1),
}
ODD_ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "int x": (torch.ones(2, 9, 3, dtype=torch.int64), torch.ones(3)),
    "bool x": (torch.ones(2, 9, 3, dtype=torch.bool), torch.ones(3)),
    "complex x": (torch.ones(2, 9, 3, dtype=torch.complex64), torch.ones(3)),
    "complex decay": (torch.ones(2, 9, 3), torch.ones(3, dtype=torch.complex64)),
    "double decay": (torch.ones(2, 9, 3), torch.ones(3, dtype=torch.float64)),
    "all int": (torch.ones(2, 9, 3, dtype=torch.int64), torch.full((3,), 2)),
    "float decay": (torch.ones(2, 9, 3), 0.5),
    "int decay": (torch.ones(2, 9, 3), 2),
}


@pytest.mark.parametrize("kind", REFUSED_ARGUMENTS | ODD_ARGUMENTS)
def test_odd_arguments_in_the_first_call(kind: str) -> None:
    same_odd_call(linrec.compile(leaky), kind)


@pytest.mark.parametrize("kind", REFUSED_ARGUMENTS | ODD_ARGUMENTS)
def test_odd_arguments_in_a_later_call(kind: str) -> None:
    net = called_before()
    same_odd_call(net, kind)
    same(net(x := signal(2, 9, 3), A3), leaky(x, A3))


def same_odd_call(net: Any, kind: str) -> None:
    if kind in REFUSED_ARGUMENTS:
        same_failure(net, leaky, *REFUSED_ARGUMENTS[kind])
    else:
        same_answer(net, leaky, *ODD_ARGUMENTS[kind])


@pytest.mark.parametrize("traced", [True, pytest.param(False, marks=slow)])
@pytest.mark.parametrize(
    "x",
    [torch.zeros(2, 9, 4), torch.zeros(2, 9, 3, dtype=torch.float64), torch.zeros(2, 9, 3, dtype=torch.int64), "x"],
    ids=["width", "double", "int", "str"],
)
def test_modules_raise_their_own_errors(x: Any, traced: bool) -> None:
    model = LTI["LinearAsTransition"].make().float()
    net = linrec.compile(model)
    if traced:
        net(torch.zeros(2, 9, 3))
    same_failure(net, model, x)
    same(net(torch.ones(2, 11, 3)), model(torch.ones(2, 11, 3)), rel=1e-5)


def table_over_time(x: Tensor, w: Tensor) -> Tensor:
    h = x[:, 0] * 0
    for t in range(x.shape[1]):
        h = 0.9 * h + x[:, t] * w[t]
    return h


def test_a_table_that_is_too_short() -> None:
    net = linrec.compile(table_over_time)
    same_failure(net, table_over_time, signal(2, 9, 3), signal(5))
    for steps in (4, 9, 30):
        same_answer(net, table_over_time, signal(2, steps, 3), signal(30))
    same_failure(net, table_over_time, signal(2, 31, 3), signal(30))
    same_run(net, table_over_time, signal(2, 9, 3), signal(9))
    converted(net)


def integer_hash(x: Tensor) -> Tensor:
    h = torch.zeros(x.shape[0], 3, dtype=torch.int64)
    ys = []
    for t in range(x.shape[1]):
        h = 3 * h + x[:, t]
        ys.append(h)
    return torch.stack(ys, 1)


def any_so_far(x: Tensor) -> Tensor:
    h = torch.zeros(x.shape[0], 3, dtype=torch.bool)
    ys = []
    for t in range(x.shape[1]):
        h = h | (x[:, t] > 7)
        ys.append(h)
    return torch.stack(ys, 1)


@pytest.mark.parametrize("fn", [integer_hash, any_so_far])
def test_integer_states_are_exact(fn: Any) -> None:
    net = linrec.compile(fn)
    for steps in (9, 45, 90, 1):  # past 2**53 and past 2**63, where integers wrap
        x = torch.randint(0, 9, (2, steps, 3))
        same(net(x), fn(x))


def two_lengths(x: Tensor, y: Tensor) -> Tensor:
    h = torch.zeros_like(x[:, 0])
    for t in range(x.shape[1]):
        h = 0.9 * h + x[:, t]
    for t in range(y.shape[1]):
        h = 0.5 * h + y[:, t]
    return h


@pytest.mark.parametrize(
    "lengths",
    [pytest.param([(7, 7), (9, 5), (1, 9)], marks=slow), pytest.param([(5, 9), (9, 5), (1, 9), (30, 2)], marks=slow)],
    ids=["equal first", "different first"],
)
def test_two_lengths_in_one_program(lengths: list[tuple[int, int]]) -> None:
    net = linrec.compile(two_lengths)
    for first, second in lengths:
        same_run(net, two_lengths, signal(2, first, 3), signal(2, second, 3))
    assert len(converted(net)) == 2
    # equal lengths may be taken for one; calls with different ones must then be captured again, once
    assert linrec.report(net).captures <= (2 if lengths[0][0] == lengths[0][1] else 1)


@slow
def test_capture_time_does_not_grow_with_two_lengths() -> None:
    net = linrec.compile(two_lengths)
    start = time.process_time()
    net(signal(2, 500, 3), signal(2, 784, 3))
    assert time.process_time() - start < 6  # twice the 3 s that a cold compilation may take
    converted(net)


def test_own_checks_still_raise() -> None:
    def checked(x: Tensor, limit: int = 50) -> Tensor:
        if x.shape[1] > limit:
            raise KeyError("too long")
        assert x.shape[2] == 3, "three channels"
        h = x[:, 0]
        for t in range(1, x.shape[1]):
            h = 0.5 * h + x[:, t]
        return h

    net = linrec.compile(checked)
    same_run(net, checked, signal(2, 9, 3))
    same_failure(net, checked, signal(2, 51, 3))
    same_failure(net, checked, signal(2, 9, 4))
    same_failure(net, checked, signal(2, 0, 3))
    same_run(net, checked, signal(2, 51, 3), limit=100)


@pytest.mark.parametrize("name", ["enumerate_into_preallocated", "final_only", "states_with_the_initial_one"])
def test_no_steps(name: str) -> None:
    case = LTI[name]
    net = linrec.compile(case.make())
    same_run(net, case.make(), *case.args(2, 0))
    same_run(net, case.make(), *case.args(2, 9))
    same_run(net, case.make(), *case.args(2, 0))
    converted(net)
