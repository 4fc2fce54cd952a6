"""Rules of the operator table through the public contract: each step is proven, runs in parallel form, and is the same.

A step gives the next state from the state and an input, both (4, 6); `S` are steps with more of the loop around them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from contract import same_run
from torch import Tensor

import linrec

Step = Callable[[Tensor, Tensor], Tensor]
WIDTH = 6
W = torch.linspace(-0.3, 0.3, WIDTH * WIDTH, dtype=torch.float64).reshape(WIDTH, WIDTH)
P = torch.linspace(-0.8, 0.9, WIDTH, dtype=torch.float64)
STEPS: dict[str, Step] = {}
LENGTHS = ((9, 4), (1, 4), (40, 3))


def step(function: Step) -> Step:
    """Register a step."""
    STEPS[function.__name__] = function
    return function


@step
def diff_with_the_state_before_it(h: Tensor, u: Tensor) -> Tensor:
    return 0.4 * torch.diff(h, dim=-1, prepend=0 * h[..., :1]) + u


@step
def diff_with_the_state_on_both_sides(h: Tensor, u: Tensor) -> Tensor:
    return 0.2 * torch.diff(h[:, :4], n=2, prepend=h[:, :2] + u[:, :2], append=h[:, 4:]) + u


@step
def diff_of_the_input_with_the_state_before_it(h: Tensor, u: Tensor) -> Tensor:
    return 0.4 * torch.diff(u, dim=-1, prepend=h[:, :1]) + 0.3 * h


@step
def repeated(h: Tensor, u: Tensor) -> Tensor:
    return 0.4 * h[:, :3].repeat(1, 2) + 0.2 * h.repeat(2, 1, 1)[0] + u


@step
def einsum_with_dots(h: Tensor, u: Tensor) -> Tensor:
    return torch.einsum("...i,ij->...j", h, W) + 0.5 * torch.einsum("...i,...j->...ij", h, u)[..., 0] * 0.1 + u


@step
def weighing_by_the_state(h: Tensor, u: Tensor) -> Tensor:
    return torch.lerp(u, 0.5 * torch.tanh(u), 0.5 * P * h)


@step
def column_written(h: Tensor, u: Tensor) -> Tensor:
    h = 0.9 * h.clone()
    h[..., 2] = u @ P
    h[..., -1] = 0.5 * h[..., 0]
    return h


@step
def pairs_as_complex(h: Tensor, u: Tensor) -> Tensor:
    turn = torch.exp(1j * P[:3])
    turned = torch.view_as_complex(h.reshape(*h.shape[:-1], 3, 2).contiguous()) * turn
    return 0.5 * torch.view_as_real(turned).flatten(-2) + u


@step
def pairs_of_a_narrower_state(h: Tensor, u: Tensor) -> Tensor:
    """Rows of five numbers, four of them as pairs: a copy gives the pairs strides of their own."""
    q = torch.cat([h[:, :5].roll(1, -1)[:, 1:].contiguous().view(-1, 4), u[:, 4:]], -1)[:, :4]
    turned = torch.view_as_complex(h[:, :5][:, :4].reshape(-1, 2, 2).contiguous()) * (0.3 + 0.4j)
    return 0.4 * torch.cat([turned.real, turned.imag, q[:, :2]], -1) + u


@step
def axes_moved(h: Tensor, u: Tensor) -> Tensor:
    return 0.5 * h.movedim(-1, 0).roll(1, 0).movedim((0,), (-1,)) + u


@step
def axes_cut_across(h: Tensor, u: Tensor) -> Tensor:
    """2 x 3 as 3 x 2, and 2 x 6 as 4 x 3 with a common refinement."""
    v = h.reshape(-1, 2, 3).flatten(1).reshape(-1, 3, 2).transpose(1, 2)
    w = torch.stack([h, u], 1).reshape(-1, 4, 3).sum(-1).repeat_interleave(2, -1)[:, :WIDTH]
    return 0.3 * v.flatten(1) + 0.1 * w + u


@step
def sums_of_what_was_repeated(h: Tensor, u: Tensor) -> Tensor:
    v = h.unsqueeze(-1).expand(*h.shape, 4) + u.unsqueeze(-1)
    return 0.3 * v.mean(-1) + 0.05 * v.sum(-1) + 0.02 * v.mean((-2, -1), keepdim=True).squeeze(-1) + u


@step
def linear_system(h: Tensor, u: Tensor) -> Tensor:
    """A matrix with fewer axes than its right side, for the state and for the input."""
    a = torch.eye(WIDTH, dtype=u.dtype) + torch.tril(W, -1)
    v: Tensor = torch.linalg.solve(a, h.unsqueeze(-1)).squeeze(-1)
    w: Tensor = torch.linalg.solve(a, u.unsqueeze(-1)).squeeze(-1)
    return 0.5 * v + w


@step
def bilinear(h: Tensor, u: Tensor) -> Tensor:
    weight = torch.linspace(-0.1, 0.1, WIDTH**3, dtype=u.dtype).reshape(WIDTH, WIDTH, WIDTH)
    return F.bilinear(torch.tanh(u), h, weight, P) + F.bilinear(h + P, torch.tanh(u), weight) + u


@step
def offsets_smaller_than_the_state(h: Tensor, u: Tensor) -> Tensor:
    """What is added on the way has no batch axis."""
    v = F.linear(torch.addcmul(P, P, 0.3 * h, value=0.5), W, P).unsqueeze(-2)
    v = torch.baddbmm(P, 2 * v, W.expand(len(u), WIDTH, WIDTH), beta=0.5).squeeze(-2)
    v = torch.addcdiv(0.3 * (v - P), P, 2 + u * u, value=-1.0)
    return torch.einsum("...i,ij->...j", torch.complex(v, P).imag + v, W).unsqueeze(-2).squeeze(-2) + u


@step
def reflected_walk(h: Tensor, u: Tensor) -> Tensor:
    """Linear over (max, +)."""
    return torch.rsub(-u, F.relu(h.clamp(min=-0.5) - 0.1).flip(-1) + P)


@step
def best_path(h: Tensor, u: Tensor) -> Tensor:
    return (torch.clamp_min(h + P, 0.1).unsqueeze(-1) + W).amax(-2) + u


def looped(body: Step) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """A loop over time: all states, and the last."""

    def program(x: Tensor) -> tuple[Tensor, Tensor]:
        h = torch.ones_like(x[:, 0])
        ys = []
        for t in range(x.shape[1]):
            h = body(h, x[:, t])
            ys.append(h)
        return torch.stack(ys, 1), h

    return program


def compared(program: Callable[..., Any], inputs: Callable[[int, int], tuple[Tensor, ...]]) -> linrec.Report:
    """The report of a program that gave the same values and gradients at several lengths and batch sizes."""
    made = linrec.compile(
        program, verify="off", forms="associative"
    )  # whatever a loop would cost; others have their own
    for steps, batch in LENGTHS:
        same_run(made, program, *(x.requires_grad_() for x in inputs(steps, batch)))
    return linrec.report(made)


def normal(steps: int, batch: int) -> tuple[Tensor, ...]:
    draw = torch.Generator().manual_seed(steps)
    return (torch.randn(batch, steps, WIDTH, dtype=torch.float64, generator=draw),)


@pytest.mark.parametrize("name", STEPS)
def test_steps_are_parallel_and_the_same(name: str) -> None:
    _all_parallel(compared(looped(STEPS[name]), normal))


def _all_parallel(report: linrec.Report) -> None:
    assert report.recurrences, f"{report.code} {report.reason}"
    for r in report.recurrences:
        assert r.kind in ("lti", "ltv") and r.form != "sequential", f"{r.code} {r.reason}"


def complex_normal(steps: int, batch: int) -> tuple[Tensor, ...]:
    draw = torch.Generator().manual_seed(steps)
    return tuple(torch.randn(batch, steps, 4, dtype=torch.complex128, generator=draw) for _ in range(3))


def conjugate(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    h, ys = torch.ones_like(q[:, 0]), []
    for t in range(q.shape[1]):
        h = (0.3 + 0.4j) * h.conj() + v[:, t]
        ys.append(h)
    return torch.stack(ys, 1)


def conjugate_mixed(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Over time, across channels, two steps back."""
    h, old, ys = torch.zeros_like(q[:, 0]), torch.zeros_like(q[:, 0]), []
    for t in range(q.shape[1]):
        h, old = 0.3 * torch.tanh(k[:, t].abs()) * h.roll(1, -1).conj() + 0.2 * old.real.flip(-1) + v[:, t], h
        ys.append(h.real)
    return torch.stack(ys, 1), h


def real_and_complex(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    h, z, ys = q[:, 0].imag, torch.zeros_like(q[:, 0]), []
    for t in range(q.shape[1]):
        h, z = 0.5 * h + 0.3 * z.real, (0.4 + 0.3j) * z + 0.5 * h + v[:, t]
        ys.append(h)
    return torch.stack(ys, 1), z


def conjugated_outer_products(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    s, ys = q.new_zeros(q.shape[0], 4, 4), []
    for t in range(q.shape[1]):
        s = torch.sigmoid(q[:, t].real).unsqueeze(-1) * s + (k[:, t].unsqueeze(-1) * v[:, t].unsqueeze(-2)).conj()
        ys.append((q[:, t].unsqueeze(-1) * s).sum(-2).conj())
    return torch.stack(ys, 1)


@pytest.mark.parametrize("program", [conjugate, conjugate_mixed, real_and_complex, conjugated_outer_products])
def test_conjugates_are_parallel_and_the_same(program: Callable[..., Any]) -> None:
    """Conjugation is linear over the reals: a state and its conjugate are one state twice as wide."""
    _all_parallel(compared(program, complex_normal))


def test_a_state_that_mixes_the_batch() -> None:
    """The length of the batch is a number of the program: another one is another program."""

    def program(x: Tensor) -> Tensor:
        h, ys = torch.zeros_like(x[:, 0]), []
        for t in range(x.shape[1]):
            h = x[:, t] + 0.03 * (P * h.sum()) - 0.1 * h.mean(0)
            ys.append(h)
        return torch.stack(ys, 1)

    _all_parallel(compared(program, normal))


def test_views_in_a_loop_that_is_kept() -> None:
    """A copy that only gave other strides is dropped; what asks for strides must run all the same."""

    def program(x: Tensor) -> Tensor:
        h, ys = torch.zeros(x.shape[0], 5, dtype=x.dtype), []
        for t in range(x.shape[1]):
            q = F.layer_norm(h + x[:, t, :5], (5,))[:, :4]
            turned = torch.view_as_complex(q.reshape(-1, 2, 2).contiguous()) * (0.6 + 0.5j)
            v = torch.cat([turned.real, turned.imag, q.t().contiguous().view(-1, 4)[: len(h), :1]], -1)
            h = 0.5 * v
            ys.append(h)
        return torch.stack(ys, 1)

    made = linrec.compile(program, verify="always")
    for steps, batch in LENGTHS:
        (x,) = normal(steps, batch)
        same_run(made, program, x.requires_grad_())
    report = linrec.report(made)
    assert report.verification.passed and report.recurrences[0].code == "LR1209"


def too_many_paths(x: Tensor) -> Tensor:
    h, ys = torch.ones_like(x[:, 0]), []
    for t in range(x.shape[1]):
        z = torch.sigmoid(x[:, t])
        for _ in range(7):
            h = 0.5 * z * h + (1 - z) * 0.4 * h.roll(1, -1)
        h = h + x[:, t]
        ys.append(h)
    return torch.stack(ys, 1)


def too_many_diagonal_paths(x: Tensor) -> Tensor:
    h, ys = torch.ones_like(x[:, 0]), []
    for t in range(x.shape[1]):
        for _ in range(7):
            h = torch.maximum(h + P, 0.1 * P + h - 0.3)
        h = torch.maximum(h - 1, x[:, t])
        ys.append(h)
    return torch.stack(ys, 1)


def too_many_conjugate_paths(x: Tensor) -> Tensor:
    h, ys = torch.ones_like(x[:, 0]) * (1 + 0j), []
    for t in range(x.shape[1]):
        for _ in range(4):
            h = 0.3 * h + 0.2j * h.conj() + 0.1 * h.real
        h = h + x[:, t]
        ys.append(h)
    return torch.stack(ys, 1)


@pytest.mark.parametrize(
    ("program", "kind"),
    [(too_many_paths, "ltv"), (too_many_diagonal_paths, "lti"), (too_many_conjugate_paths, "lti")],
)
def test_paths_beyond_the_limit_are_added_up(program: Callable[..., Any], kind: str) -> None:
    report = compared(program, normal)
    _all_parallel(report)
    assert [r.kind for r in report.recurrences] == [kind]


def test_a_refused_program_shows_the_line() -> None:
    def program(x: Tensor) -> Tensor:
        h = torch.zeros_like(x[:, 0])
        for t in range(x.shape[1]):
            h = h + x[:, t]
            if h.sum() > 0:
                h = 0.5 * h
        return h

    made = linrec.compile(program)
    made(*normal(8, 2))
    report = linrec.report(made)
    assert report.code == "LR0301" and "`bool`" in report.reason
    assert report.line == "if h.sum() > 0:" and report.line in str(report)
