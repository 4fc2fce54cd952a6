"""Random numbers: a compiled call draws what the original would have drawn after the same seed, in the same order."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._pytree import tree_leaves

import linrec


def drawn_for_a_shape(x: Tensor) -> Tensor:
    h, ys = x[0], []
    for u in x.unbind(0):
        n = F.dropout(h, 0.1, training=True).shape[0]
        h = 0.5 * F.dropout(h, 0.1, training=True) + u + 0 * n
        ys.append(h)
    return torch.stack(ys)


def before_and_after_the_state(x: Tensor) -> Tensor:
    h, ys = torch.zeros_like(x[0]), []
    for u in x.unbind(0):
        h = 0.5 * h + F.dropout(u, 0.3, training=True)
        ys.append(F.dropout(h, 0.1, training=True))
    return torch.stack(ys)


def inside_and_outside(x: Tensor) -> Tensor:
    h, ys = torch.zeros_like(x[0]), []
    x = F.dropout(x, 0.2, training=True)
    for u in x.unbind(0):
        h = 0.5 * h + F.dropout(u, 0.3, training=True) + torch.rand_like(u)
        ys.append(h)
    return F.dropout(torch.stack(ys), 0.5, training=True)


def two_loops(x: Tensor) -> tuple[Tensor, Tensor]:
    h = g = torch.zeros_like(x[0])
    ys, zs = [], []
    for u in x.unbind(0):
        h = 0.5 * torch.tanh(F.dropout(h, 0.2, training=True)) + u
        g = 0.3 * g + F.dropout(h, 0.1, training=True)
        ys.append(g)
    for y in ys:
        h = 0.4 * h + F.dropout(y, 0.4, training=True)
        zs.append(h)
    return torch.stack(zs), F.dropout(x, 0.5, training=True)


@pytest.mark.parametrize(
    "program", (drawn_for_a_shape, before_and_after_the_state, inside_and_outside, two_loops), ids=lambda f: f.__name__
)
def test_the_numbers_are_those_of_the_original(program: Callable[..., Any]) -> None:
    compiled: Any = linrec.compile(program, verify="off")
    for length in (12, 40):
        found = []
        for call in (compiled, program):
            x = torch.randn(length, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()
            torch.manual_seed(5)
            leaves = tree_leaves(call(x))
            sum(leaf.square().sum() for leaf in leaves).backward()
            found.append([*leaves, x.grad])
        for got, want in zip(*found, strict=True):
            torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12, msg=f"T={length}")


def test_linear_parts_between_two_draws_stay_parallel() -> None:
    compiled: Any = linrec.compile(before_and_after_the_state, verify="off")
    compiled(torch.randn(12, 4))
    (found,) = linrec.report(compiled).recurrences
    assert found.kind == "lti"
    assert found.form != "sequential"
