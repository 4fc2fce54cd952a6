"""Programs with matrix states, written as people write them: the form found, and the three laws."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import linrec

Program = Callable[..., Any]
RATES = torch.linspace(0.1, 1.0, 4, dtype=torch.float64)
PROGRAMS: dict[str, tuple[str, Any]] = {}


def program(form: str) -> Callable[[Program], Program]:
    def add(function: Program) -> Program:
        PROGRAMS[function.__name__] = (form, function)
        return function

    return add


def blank(q: Tensor, v: Tensor) -> Tensor:
    return q.new_zeros(q.shape[0], q.shape[2], q.shape[3], v.shape[3])


def outer(k: Tensor, v: Tensor) -> Tensor:
    return k.unsqueeze(-1) * v.unsqueeze(-2)


def read(q: Tensor, s: Tensor) -> Tensor:
    return torch.einsum("bhk,bhkv->bhv", q, s)


@program("chunked")
def key_decay(q: Tensor, k: Tensor, v: Tensor, a: Tensor, b: Tensor) -> Tensor:
    s, out = blank(q, v), []
    for t in range(q.shape[1]):
        s = a[:, t].unsqueeze(-1) * s + outer(k[:, t], v[:, t])
        out.append(read(q[:, t], s))
    return torch.stack(out, 1)


@program("chunked")
def scalar_decay(q: Tensor, k: Tensor, v: Tensor, a: Tensor, b: Tensor) -> Tensor:
    s, out = blank(q, v), []
    for t in range(q.shape[1]):
        s = b[:, t, :, None, None] * s + torch.einsum("bhk,bhv->bhkv", k[:, t], v[:, t])
        out.append((q[:, t].unsqueeze(-2) @ s).squeeze(-2))
    return torch.stack(out, 1)


@program("chunked")
def constant_decay(q: Tensor, k: Tensor, v: Tensor, a: Tensor, b: Tensor) -> Tensor:
    s, out = blank(q, v), []
    for t in range(q.shape[1]):
        s = 0.9 * s + k[:, t].unsqueeze(-1) @ v[:, t].unsqueeze(-2)
        out.append((s * q[:, t].unsqueeze(-1)).sum(-2))
    return torch.stack(out, 1)


@program("chunked")
def value_decay(q: Tensor, k: Tensor, v: Tensor, a: Tensor, b: Tensor) -> Tensor:
    s, out = blank(q, v), []
    decay = torch.sigmoid(v)
    for t in range(q.shape[1]):
        s = decay[:, t].unsqueeze(-2) * s + outer(k[:, t], v[:, t])
        out.append(read(q[:, t], s))
    return torch.stack(out, 1)


@program("chunked")
def bonus(q: Tensor, k: Tensor, v: Tensor, a: Tensor, b: Tensor) -> Tensor:
    s, out = blank(q, v), []
    for t in range(q.shape[1]):
        new = outer(k[:, t], v[:, t])
        out.append(read(q[:, t], s + 0.7 * new))
        s = a[:, t].unsqueeze(-1) * s + new
    return torch.stack(out, 1) + s.sum()


@program("chunked")
def normaliser(q: Tensor, k: Tensor, v: Tensor, a: Tensor, b: Tensor) -> Tensor:
    s, n = blank(q, v), torch.zeros_like(k[:, 0])
    out: list[Tensor] = []
    for t in range(q.shape[1]):
        s = a[:, t].unsqueeze(-1) * s + outer(k[:, t], v[:, t])
        n = a[:, t] * n + k[:, t]
        out.append(read(q[:, t], s) / (1 + (q[:, t] * n).sum(-1, keepdim=True).abs()))
    return torch.stack(out, 1)


@program("chunked")
def square(q: Tensor, k: Tensor, v: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """A covariance: key and value are one vector."""
    s, out = blank(q, k), []
    for t in range(q.shape[1]):
        s = 0.9 * s + torch.einsum("bhi,bhj->bhij", k[:, t], k[:, t])
        out.append(torch.einsum("bhij,bhj->bhi", s, q[:, t]))
    return torch.stack(out, 1)


@program("chunked")
def full_decay(q: Tensor, k: Tensor, v: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Selective: every number of the state has a decay of its own."""
    s, out = blank(q, v), []
    for t in range(q.shape[1]):
        s = torch.exp(-v[:, t].abs().unsqueeze(-2) * RATES[:, None]) * s + outer(k[:, t], b[:, t, :, None] * v[:, t])
        out.append(read(q[:, t], s))
    return torch.stack(out, 1)


@program("wy")
def delta(q: Tensor, k: Tensor, v: Tensor, a: Tensor, b: Tensor) -> Tensor:
    s, out = blank(q, v), []
    for t in range(q.shape[1]):
        error = (v[:, t] - read(k[:, t], s)) * b[:, t].unsqueeze(-1)
        s = s + outer(k[:, t], error)
        out.append(read(q[:, t], s))
    return torch.stack(out, 1)


@program("wy")
def delta_as_matrix(q: Tensor, k: Tensor, v: Tensor, a: Tensor, b: Tensor) -> Tensor:
    s, out = blank(q, v).transpose(-1, -2), []
    for t in range(q.shape[1]):
        beta = b[:, t, :, None, None]
        s = s @ (torch.eye(4, dtype=k.dtype) - beta * outer(k[:, t], k[:, t])) + beta * outer(v[:, t], k[:, t])
        out.append((s @ q[:, t].unsqueeze(-1)).squeeze(-1))
    return torch.stack(out, 1)


@program("wy")
def gated_delta(q: Tensor, k: Tensor, v: Tensor, a: Tensor, b: Tensor) -> Tensor:
    s, out = blank(q, v), []
    for t in range(q.shape[1]):
        s = s * a[:, t].unsqueeze(-1)
        s = s + outer(k[:, t], b[:, t].unsqueeze(-1) * (v[:, t] - (s * k[:, t].unsqueeze(-1)).sum(-2)))
        out.append(read(q[:, t], s))
    return torch.stack(out, 1)


@program("wy")
def diagonal_and_low_rank(q: Tensor, k: Tensor, v: Tensor, a: Tensor, b: Tensor) -> Tensor:
    s, out = blank(q, v).transpose(-1, -2), []
    for t in range(q.shape[1]):
        s = s @ (torch.diag_embed(a[:, t]) - 0.5 * outer(k[:, t], a[:, t] * k[:, t])) + outer(v[:, t], k[:, t])
        out.append((s @ q[:, t].unsqueeze(-1)).squeeze(-1))
    return torch.stack(out, 1)


@program("wy")
def reflections(q: Tensor, k: Tensor, v: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Two Householder products a step."""
    s, out = blank(q, v), []
    for t in range(q.shape[1]):
        for u in (k[:, t], k[:, t].roll(1, -1)):
            s = s - 2 * outer(u, read(u, s))
        s = 0.9 * s + outer(k[:, t], v[:, t])
        out.append(read(q[:, t], s))
    return torch.stack(out, 1)


@program("wy")
def backward_in_time(q: Tensor, k: Tensor, v: Tensor, a: Tensor, b: Tensor) -> Tensor:
    s = blank(q, v)
    out: list[Tensor] = []
    for t in reversed(range(q.shape[1])):
        s = s + outer(k[:, t], b[:, t].unsqueeze(-1) * (v[:, t] - read(k[:, t], s)))
        out.insert(0, read(q[:, t], s))
    return torch.stack(out, 1)


def inputs(steps: int, batch: int = 2, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    g = torch.Generator().manual_seed(steps)
    q, k, v = (torch.randn(batch, steps, 3, n, generator=g, dtype=dtype) for n in (4, 4, 5))
    a, b = (
        torch.rand(batch, steps, 3, 4, generator=g, dtype=dtype),
        torch.rand(batch, steps, 3, generator=g, dtype=dtype),
    )
    return [q, torch.nn.functional.normalize(k, dim=-1), v, a, b]


@pytest.mark.parametrize("name", PROGRAMS)
def test_same_function(name: str) -> None:
    """Values and gradients for several lengths from one capture, and the form that was found."""
    form, f = PROGRAMS[name]
    net = linrec.compile(f)
    for steps in (20, 3, 67):
        mine, theirs = ([x.clone().requires_grad_() for x in inputs(steps)] for _ in range(2))
        have, want = net(*mine), f(*theirs)
        torch.testing.assert_close(have, want, rtol=1e-10, atol=1e-10)
        probe = torch.randn_like(want)
        given = torch.autograd.grad(have, mine, probe, allow_unused=True)
        for one, other in zip(given, torch.autograd.grad(want, theirs, probe, allow_unused=True), strict=True):
            if one is not None and other is not None:
                torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)
            else:
                assert one is None and other is None
    assert net.report.recurrences[0].form == form
    assert all(r.form != "sequential" for r in net.report.recurrences)


@pytest.mark.parametrize("name", [n for n in PROGRAMS if n not in ("bonus", "backward_in_time")])
def test_splitting_is_free(name: str) -> None:
    """Chunks with the state carried over, and single steps, equal the whole."""
    _, f = PROGRAMS[name]
    xs = inputs(12)
    want = f(*xs)
    rnn = linrec.compile(f).recurrent(*xs)
    state, parts, start = None, [], 0
    for size in (5, 1, 4):
        y, state = rnn(*(x[:, start : start + size] for x in xs), state=state)
        parts.append(y)
        start += size
    for t in range(start, 12):
        y, state = rnn.step(*(x[:, t] for x in xs), state=state)
        parts.append(y.unsqueeze(1))
    torch.testing.assert_close(torch.cat(parts, 1), want, rtol=1e-10, atol=1e-10)


def test_states_that_are_read_are_kept() -> None:
    def f(q: Tensor, k: Tensor, v: Tensor, a: Tensor) -> Tensor:
        s, out = blank(q, v), []
        for t in range(q.shape[1]):
            s = a[:, t].unsqueeze(-1) * s + outer(k[:, t], v[:, t])
            out.append(s)
        return torch.stack(out, 1)

    compiled: Any = linrec.compile(f)
    net, xs = compiled, inputs(20)[:4]
    torch.testing.assert_close(net(*xs), f(*xs), rtol=1e-11, atol=1e-11)
    assert net.report.recurrences[0].form == "scan"


def test_the_emitted_program_never_holds_all_states() -> None:
    """No tensor of the compiled call has steps x key x value numbers."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Widest(TorchDispatchMode):  # type: ignore[no-untyped-call]
        most = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            out: Any = func(*args, **(kwargs or {}))
            if isinstance(out, Tensor):
                self.most = max(self.most, out.untyped_storage().nbytes() // out.element_size())
            return out

    g = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, 512, 1, 32, generator=g) for _ in range(3))
    a, b = torch.rand(1, 512, 1, 32, generator=g), torch.rand(1, 512, 1, generator=g)
    for name in ("key_decay", "bonus", "delta", "gated_delta", "reflections"):
        net = linrec.compile(PROGRAMS[name][1], verify="off")
        net(q, k, v, a, b)
        with Widest() as seen:  # type: ignore[no-untyped-call]
            net(q, k, v, a, b)
        assert seen.most <= 512 * 32 * 8, name
