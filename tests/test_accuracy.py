"""Accuracy of every form: as near to the loop in double precision as the loop in single precision, times three.

Errors are taken per block of 64 steps and are relative to what is loudest in that block, so that a form may not be
exact where a signal is loud alone. Gradients are held to the same bound, each as a whole.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from drawn_shapes import Dense, Modes, best_path, decay, each_its_own, factored, gated, shared
from test_plain import attention, delta
from torch import Tensor, nn
from torch.nn.functional import normalize

import linrec
from linrec.nn import zero_order_hold

pytestmark = pytest.mark.usefixtures("one_thread")
slow = pytest.mark.slow
TIMES, ADDED = 3.0, 1e-6
BLOCK = 64
LONG = 1 << 16


class Memory(nn.Module):
    """A delay line: its transition is far from normal, and its eigenvectors are nearly parallel."""

    A: Tensor
    B: Tensor

    def __init__(self, order: int, steps: float, read: str) -> None:
        super().__init__()
        a, b = zero_order_hold(order, steps)
        self.read = read
        # rounded to single precision at once: both loops have the same coefficients
        self.register_buffer("A", torch.tensor(a).float())
        self.register_buffer("B", torch.tensor(b).float())
        self.C = nn.Parameter(torch.randn(order) / order)

    def forward(self, x: Tensor) -> Tensor:
        m, out = x.new_zeros(x.shape[0], self.A.shape[0]), []
        for t in range(x.shape[1]):
            m = m @ self.A.T + x[:, t] * self.B
            if self.read != "last":
                out.append((m @ self.C).unsqueeze(-1) if self.read == "readout" else m)
        return m if self.read == "last" else torch.stack(out, 1)


class Rotations(nn.Module):
    """Complex modes that turn and hardly fade, of which the real part is read."""

    def __init__(self, channels: int, modes: int) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.polar(fading(modes), torch.linspace(0, 3, modes)))
        self.c = nn.Parameter(torch.randn(channels, modes, dtype=torch.complex64) / modes)

    def forward(self, x: Tensor) -> Tensor:
        h, out = x.new_zeros(x.shape[0], *self.c.shape, dtype=self.c.dtype), []
        for t in range(x.shape[1]):
            h = self.a * h + x[:, t].unsqueeze(-1)
            out.append((self.c * h).sum(-1).real)
        return torch.stack(out, 1)


def backwards(a: Tensor, x: Tensor) -> Tensor:
    """The last step first."""
    h, out = torch.zeros_like(x[:, 0]), []
    for t in range(x.shape[1] - 1, -1, -1):
        h = a[:, t] * h + x[:, t]
        out.append(h)
    return torch.stack(out[::-1], 1)


def with_resets(done: Tensor, a: Tensor, x: Tensor, start: Tensor) -> Tensor:  # (B, T), (B, T, d), (B, T, d), (B, d)
    h, out = start, []
    for t in range(x.shape[1]):
        h = a[:, t] * torch.where(done[:, t, None], 0.0, h) + x[:, t]
        out.append(h)
    return torch.stack(out, 1)


def gated_delta(q: Tensor, k: Tensor, v: Tensor, a: Tensor, b: Tensor) -> Tensor:  # rows, a and b (B, T, 1)
    s, out = q.new_zeros(q.shape[0], q.shape[2], v.shape[2]), []
    for t in range(q.shape[1]):
        s = a[:, t].unsqueeze(-1) * s
        error = b[:, t] * (v[:, t] - torch.einsum("bk,bkv->bv", k[:, t], s))
        s = s + k[:, t].unsqueeze(-1) * error.unsqueeze(-2)
        out.append(torch.einsum("bk,bkv->bv", q[:, t], s))
    return torch.stack(out, 1)


def best_so_far(a: Tensor, x: Tensor) -> Tensor:  # (d), (B, T, d)
    h, out = x[:, 0], [x[:, 0]]
    for t in range(1, x.shape[1]):
        h = torch.maximum(h + a, x[:, t])
        out.append(h)
    return torch.stack(out, 1)


def forward_algorithm(w: Tensor, x: Tensor) -> Tensor:  # (n, n), (B, T, n)
    h, out = x[:, 0], [x[:, 0]]
    for t in range(1, x.shape[1]):
        h = torch.logsumexp(h.unsqueeze(2) + w, 1) + x[:, t]
        out.append(h)
    return torch.stack(out, 1)


# inputs --------------------------------------------------------------------------------------------------


def rows(steps: int, *widths: int) -> list[Tensor]:
    return [torch.randn(2, steps, n) for n in widths]


def fading(*shape: int) -> Tensor:
    """Decays from those that forget at once to those that keep 10,000 steps."""
    return 1 - 10 ** (-4 * torch.rand(shape))


def near_rotation(*shape: int) -> Tensor:  # (..., n, n)
    turned: Tensor = torch.linalg.qr(torch.randn(shape)).Q
    return 0.999 * turned


def transitions(n: int) -> Tensor:
    """Log probabilities of a Markov chain: paths neither grow nor fade."""
    return torch.randn(n, n).log_softmax(-1)


def keys(steps: int, n: int) -> Tensor:
    return normalize(torch.randn(2, steps, n), dim=-1)


@dataclass(frozen=True)
class Case:
    """A loop with inputs of so many steps, and the form it is to run in."""

    form: str
    make: Callable[[], Any]
    inputs: Callable[[int], list[Tensor]]
    is_native: bool = False  # has it compiled kernels?


def turning(n: int, p: int, q: int, read: str) -> Dense:
    model = Dense(n, p, q, read, True)
    model.A.data = near_rotation(n, n)
    return model


def dense(form: str, n: int, p: int, q: int, read: str) -> Case:
    return Case(form, lambda: turning(n, p, q, read), lambda t: rows(t, p))


def memory(form: str, read: str) -> Case:
    return Case(form, lambda: Memory(24, 300.0, read), lambda t: rows(t, 1))


CASES = {
    "last of dense": dense("final", 24, 3, 1, "last"),
    "last of memory": memory("final", "last"),
    "dense by FFT": dense("convolution", 24, 2, 3, "readout"),
    "memory by FFT": memory("convolution", "readout"),
    "states of memory by FFT": memory("convolution", "states"),
    "modes by FFT": Case("convolution", lambda: Modes(3, 8), lambda t: rows(t, 3)),
    "rotations by FFT": Case("convolution", lambda: Rotations(3, 8), lambda t: rows(t, 3)),
    "dense in chunks": dense("chunked", 24, 2, 3, "readout"),
    "states in chunks": dense("chunked", 16, 2, 2, "states"),
    "one channel in chunks": dense("chunked", 8, 1, 1, "readout"),
    "memory in chunks": memory("chunked", "readout"),
    "modes in chunks": Case("chunked", lambda: Modes(3, 8), lambda t: rows(t, 3)),
    "rotations in chunks": Case("chunked", lambda: Rotations(3, 8), lambda t: rows(t, 3)),
    "one decay": Case("scan", lambda: decay, lambda t: [fading(1)[0], *rows(t, 4)], True),
    "decays": Case("scan", lambda: decay, lambda t: [fading(64), *rows(t, 64)], True),
    "complex decays": Case(
        "scan", lambda: decay,
        lambda t: [torch.polar(fading(64), 6 * torch.rand(64)), torch.randn(2, t, 64, dtype=torch.complex64)], True,
    ),
    "gates": Case("scan", lambda: gated, lambda t: [fading(2, t, 8), *rows(t, 8)], True),
    "one channel": Case("scan", lambda: gated, lambda t: [fading(2, t, 1), *rows(t, 1)], True),
    "complex gates": Case(
        "scan", lambda: gated,
        lambda t: [torch.polar(fading(2, t, 4), 6 * torch.rand(2, t, 4)), torch.randn(2, t, 4, dtype=torch.complex64)],
        True,
    ),
    "backwards": Case("scan", lambda: backwards, lambda t: [fading(2, t, 8), *rows(t, 8)], True),
    "resets": Case(
        "scan", lambda: with_resets,
        lambda t: [torch.rand(2, t) < 0.003, fading(2, t, 8), *rows(t, 8), torch.randn(2, 8)], True,
    ),
    "scalar decay": Case("chunked", lambda: attention, lambda t: [*rows(t, 8, 8, 6), fading(2, t, 1)], True),
    "key decay": Case("chunked", lambda: attention, lambda t: [*rows(t, 8, 8, 6), fading(2, t, 8)], True),
    "delta rule": Case("wy", lambda: delta, lambda t: [*rows(t, 8), keys(t, 8), *rows(t, 6)], True),
    "gated delta rule": Case(
        "wy", lambda: gated_delta,
        lambda t: [*rows(t, 8), keys(t, 8), *rows(t, 6), fading(2, t, 1), torch.rand(2, t, 1)], True,
    ),
    "each its own": Case(
        "associative", lambda: each_its_own, lambda t: [near_rotation(2, t, 4, 4), *rows(t, 4)],
    ),
    "shared": Case("associative", lambda: shared, lambda t: [near_rotation(t, 4, 4), *rows(t, 4)]),
    "factored": Case("associative", lambda: factored, lambda t: [near_rotation(4, 4), fading(2, t, 4), *rows(t, 4)]),
    "constant": dense("associative", 4, 2, 4, "states"),
    "best so far": Case("scan", lambda: best_so_far, lambda t: [-torch.rand(4), *rows(t, 4)]),
    "best path": Case("associative", lambda: best_path, lambda t: [transitions(4), *rows(t, 4)]),
    "forward algorithm": Case("associative", lambda: forward_algorithm, lambda t: [transitions(4), *rows(t, 4)]),
}  # fmt: skip


# errors --------------------------------------------------------------------------------------------------


def widened(x: Any) -> Any:
    """The same in double precision; gradients asked for likewise."""
    if isinstance(x, nn.Module):
        wide = copy.deepcopy(x)
        for p in [*wide.parameters(), *wide.buffers()]:
            p.data = widened(p.data)
        return wide
    if not isinstance(x, Tensor):
        return x
    kind = torch.complex128 if x.is_complex() else torch.float64 if x.is_floating_point() else x.dtype
    return x.detach().to(kind).requires_grad_(x.requires_grad)


def in_blocks(y: Tensor) -> list[Tensor]:
    """(B, T, ...) by 64 steps; what has no steps is one block."""
    return list(torch.split(y, BLOCK, 1)) if y.dim() > 2 else [y]


def judged(got: Tensor, loop: Tensor, exact: Tensor, what: str) -> None:
    """The bound, for each block."""
    assert got.dtype == loop.dtype and got.shape == exact.shape
    for i, (g, own, e) in enumerate(zip(*map(in_blocks, (got.detach(), loop.detach(), exact.detach())), strict=True)):
        loudest = float(e.abs().max())
        error, allowed = float((g - e).abs().max()), TIMES * float((own - e).abs().max()) + ADDED * loudest
        told = f"{what}, block {i}: error {error:.2e}, allowed {allowed:.2e} beside {loudest:.2e}"
        assert error <= allowed, told


def run(program: Any, inputs: list[Tensor], train: bool) -> list[Tensor]:
    """The output, and gradients by all inputs and parameters of a weighting that is fixed by its shape."""
    if not train:
        with torch.no_grad():
            return [program(*inputs)]
    y = program(*inputs)
    leaves = [x for x in inputs if x.requires_grad]
    leaves += list(program.parameters()) if isinstance(program, nn.Module) else []
    probe = torch.randn(y.shape, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    found = torch.autograd.grad(y, [x for x in leaves if x.requires_grad], probe.to(y.dtype), allow_unused=True)
    return [y, *(g for g in found if g is not None)]


def check(case: Case, steps: int, train: bool) -> None:
    torch.manual_seed(steps)
    program = case.make()
    inputs = [x.requires_grad_(train and x.dtype != torch.bool) for x in case.inputs(steps)]
    net: Any = linrec.compile(program, forms=case.form)
    got = run(net, inputs, train)
    report = linrec.report(net)
    assert [r.form for r in report.recurrences] == [case.form], str(report)
    loop = run(program, inputs, train)
    exact = run(widened(program), [widened(x) for x in inputs], train)
    for i, parts in enumerate(zip(got, loop, exact, strict=True)):
        judged(*parts, "output" if i == 0 else f"gradient {i}")


LATER: tuple[str, ...] = (
    "last of dense",
    "memory by FFT",
    "states of memory by FFT",
    "modes by FFT",
    "rotations in chunks",
    "one decay",
)
LATER += ("memory in chunks", "modes in chunks", "complex gates", "shared", "scalar decay", "delta rule")


@pytest.mark.parametrize("name", [pytest.param(n, marks=slow) if n in LATER else n for n in CASES])
def test_every_form(name: str) -> None:
    """Two hundred steps with gradients: neither a whole number of chunks nor of blocks."""
    check(CASES[name], 200, train=True)


@pytest.mark.parametrize("name", ["gates", *(pytest.param(n, marks=slow) for n in CASES if n != "gates")])
def test_many_steps(name: str) -> None:
    """65,536 steps."""
    check(CASES[name], LONG, train=False)


@slow
@pytest.mark.parametrize("name", CASES)
def test_gradients_of_many_steps(name: str) -> None:
    check(CASES[name], 5000, train=True)


@pytest.mark.parametrize("path", ["plain"], indirect=True)
@pytest.mark.parametrize(
    "name", [n if n == "gates" else pytest.param(n, marks=slow) for n, c in CASES.items() if c.is_native]
)
def test_plain_operators(name: str, path: str) -> None:
    """Forms with compiled kernels, without these."""
    check(CASES[name], 3000, train=True)


# half precision ------------------------------------------------------------------------------------------

HALVES = (
    "one decay",
    "decays",
    "gates",
    "backwards",
    "scalar decay",
    "key decay",
    "delta rule",
    "each its own",
)


@pytest.mark.parametrize(
    "name", [n if n in ("gates", "key decay", "each its own") else pytest.param(n, marks=slow) for n in HALVES]
)
def test_states_are_kept_in_single_precision(name: str) -> None:
    """With bfloat16 inputs nothing but the result is rounded to eight bits: the loop itself loses all of them."""
    torch.manual_seed(0)
    case = CASES[name]
    inputs = [x.to(torch.bfloat16) for x in case.inputs(2000)]
    net: Any = linrec.compile(case.make(), forms=case.form)
    got = net(*inputs)
    assert linrec.report(net).recurrences[0].form == case.form and got.dtype == torch.bfloat16
    exact, loop = case.make()(*map(widened, inputs)), case.make()(*inputs)
    rounding, loudest = 2.0**-8 * exact.abs(), float(exact.abs().max())
    assert bool(((got - exact).abs() <= rounding + 1e-4 * loudest).all())
    assert float((loop - exact).abs().max()) > 10 * float((got - exact).abs().max() - rounding.max())
