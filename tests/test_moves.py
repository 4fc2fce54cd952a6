"""What moves, replaces or leaves numbers out is linear over every semiring; its gradients are those of the loop."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from contract import dispatched, same_run
from torch import Tensor

import linrec

N = 3
LAST, FIRST = torch.tensor([N - 1]), torch.tensor([0])
TURNED = torch.tensor([1, 2, 0])
ALL = torch.arange(N).reshape(1, N)

MOVES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "masked_scatter": lambda h, u: h.masked_scatter(u > 0.5, u),
    "masked_scatter, a row of marks": lambda h, u: h.masked_scatter(u[:1] > 0.5, u),
    "masked_scatter of the state": lambda h, u: u.masked_scatter(u > 0.5, h),
    "masked_fill": lambda h, u: h.masked_fill(u > 0.5, -2.0),
    "masked_fill by a tensor": lambda h, u: h.masked_fill(u > 0.5, u.mean()),
    "where": lambda h, u: torch.where(u > 0.5, u, h),
    "where a number": lambda h, u: torch.where(u > 0.5, -2.0, h),
    "a write where": lambda h, u: _written(h, u > 0.5, u.mean()),
    "diagonal_scatter": lambda h, u: torch.diagonal_scatter(h, u.diagonal()),
    "select_scatter": lambda h, u: torch.select_scatter(h, u[0], 0, 1),
    "select_scatter of the state": lambda h, u: torch.select_scatter(u, h[0], 0, 1),
    "slice_scatter": lambda h, u: torch.slice_scatter(h, u[1:], 0, 1),
    "slice_scatter of the state": lambda h, u: torch.slice_scatter(u, h[:1], 0, 1, 2),
    "scatter": lambda h, u: h.scatter(1, ALL.expand(N, N)[:, 1:], u[:, :2]),
    "scatter a number": lambda h, u: h.scatter(1, LAST.expand(N, 1), -2.0),
    "scatter of the state": lambda h, u: u.scatter(1, TURNED.expand(N, N), h),
    "index_fill": lambda h, u: h.index_fill(0, FIRST, -2.0),
    "index_fill by a tensor": lambda h, u: h.index_fill(0, FIRST, u.mean()),
    "index_copy": lambda h, u: h.index_copy(0, LAST, u[:1]),
    "index_copy of the state": lambda h, u: u.index_copy(0, LAST, h[:1]),
    "index_put": lambda h, u: torch.index_put(h, [LAST], u[:1]),
    "index_put of the state": lambda h, u: torch.index_put(u, [TURNED], h),
    "cat": lambda h, u: torch.cat([h[1:], u[:1]]),
    "stack": lambda h, u: torch.stack([h[2], u[0], h[1]]),
    "pad": lambda h, u: F.pad(h[:, 1:], (0, 1), value=-2.0),
    "roll": lambda h, u: h.roll(1, 0),
    "flip": lambda h, u: h.flip(0),
    "take": lambda h, u: h.take(TURNED).expand(N, N),
    "take from the end": lambda h, u: h.take(TURNED - N).expand(N, N),
    "gather": lambda h, u: h.gather(1, TURNED.expand(N, N)),
    "embedding": lambda h, u: F.embedding(TURNED, h),
    "index_select": lambda h, u: h.index_select(0, TURNED),
    "rot90": lambda h, u: torch.rot90(h),
    "minus": lambda h, u: torch.rsub(u, h),
}  # fmt: skip
STEPS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "max-plus": torch.maximum,
    "log-sum-exp": torch.logaddexp,
    "sum-product": lambda u, h: 0.9 * h + u,
}


def _written(h: Tensor, mask: Tensor, value: Tensor) -> Tensor:
    h = h.clone()
    h[mask] = value
    return h


@pytest.mark.parametrize("semiring", [s if s == "max-plus" else pytest.param(s, marks=pytest.mark.slow) for s in STEPS])
@pytest.mark.parametrize("move", MOVES)
def test_moves_are_linear(move: str, semiring: str) -> None:
    moved, step = MOVES[move], STEPS[semiring]

    def run(x: Tensor, y: Tensor) -> Tensor:
        h, ys = torch.full_like(x[0], -10.0), []
        for t in range(len(x)):
            h = step(x[t], moved(h, y[t]))
            ys.append(h)
        return torch.stack(ys)

    made = linrec.compile(run, verify="off")
    for steps in (12, 1, 2, 64):
        inputs = [torch.randn(steps, N, N, dtype=torch.float64, requires_grad=True) for _ in range(2)]
        same_run(made, run, *inputs)
    report = linrec.report(made)
    assert [(r.semiring, r.form != "sequential") for r in report.recurrences] == [(semiring, True)], report
    assert report.captures == 1
    short, long = (dispatched(made, *torch.randn(2, steps, N, N, dtype=torch.float64)) for steps in (64, 512))
    assert long < 4 * short, (short, long)
