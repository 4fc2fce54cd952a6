"""Closed forms of impulse responses: equal to powers of the matrices, and printed where reports are."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import sympy
import torch
from torch import Tensor, nn

import linrec
from linrec.closed import ORDER, impulse_response, n, rational, rounded
from linrec.debug.page import report_page
from linrec.render import level2

R = sympy.Rational
a, b, c = sympy.symbols("a b c", positive=True)


def drawn(order: int, seed: int) -> list[list[Any]]:
    numbers = random.Random(seed)
    return [[R(numbers.randint(-60, 60), 100) for _ in range(order)] for _ in range(order)]


def turning(radius: Any, cosine: Any, sine: Any) -> list[list[Any]]:
    return [[radius * cosine, -radius * sine], [radius * sine, radius * cosine]]


TURN = turning(R(9, 10), R(3, 5), R(4, 5))
SYSTEMS: dict[str, tuple[list[list[Any]], list[Any], list[Any], Any]] = {
    "real": ([[R(9, 10)]], [2], [3], 0),
    "with feedthrough": ([[R(9, 10)]], [2], [3], 5),
    "unstable and negative": ([[R(-11, 10), 1], [0, 2]], [1, 1], [1, 1], 0),
    "repeated": ([[R(1, 2), 1, 0], [0, R(1, 2), 1], [0, 0, R(1, 2)]], [0, 1, 1], [1, 0, 3], 2),
    "complex pair": (TURN, [1, 0], [0, 1], 0),
    "irrational pair": ([[R(9, 10), R(-3, 10)], [R(3, 10), R(9, 10)]], [1, 0], [1, 1], 1),
    "repeated pair": ([[*TURN[0], 1, 0], [*TURN[1], 0, 1], [0, 0, *TURN[0]], [0, 0, *TURN[1]]], [0, 0, 0, 1], [1] * 4, 0),
    "memory": ([[0, 1, 0], [0, 0, 1], [0, 0, 0]], [0, 1, 1], [1, 2, 3], 4),
    "memory and decay": ([[0, 1, 0], [0, 0, 0], [0, 0, R(1, 2)]], [0, 1, 1], [1, 0, 3], 2),
    "nothing at all": ([[R(1, 2)]], [0], [1], 0),
    "unreached": ([[R(1, 2), 0], [0, R(1, 3)]], [1, 0], [1, 1], 0),
    **{f"order {k}, {s}": (drawn(k, s), [1] * k, [1, *[2] * (k - 1)], 0) for k in (2, 3, 4) for s in range(4)},
}  # fmt: skip
SYMBOLS: dict[str, list[list[Any]]] = {
    "one": [[a]],
    "two": [[a, 1], [0, b]],
    "oscillator": [[a, 1], [-b, 0]],
    "repeated": [[a, 1], [0, a]],
    "cascade of three": [[a, 1, 0], [0, b, 1], [0, 0, c]],
    "damped turn": [[a, -b], [b, a]],
}


def powers(A: Any, G: Any, C: Any, D: Any, steps: int) -> list[Any]:
    return [D, *(C * A**k * G for k in range(steps - 1))]


@pytest.mark.parametrize("name", SYSTEMS)
def test_numbers_equal_powers(name: str) -> None:
    rows, into, out, through = SYSTEMS[name]
    A, G, C, D = sympy.Matrix(rows), sympy.Matrix(into), sympy.Matrix([out]), sympy.Matrix([[through]])
    found = impulse_response(A, G, C, D)
    assert found is not None and found.shape == (1, 1)
    for k, wanted in enumerate(powers(A, G, C, D, 16)):
        exact = float(wanted[0, 0])
        assert abs(complex(sympy.N(found[0, 0].subs(n, k), 25)) - exact) <= 1e-14 * (1 + abs(exact)), k
        assert abs(complex(sympy.N(rounded(found[0, 0]).subs(n, k))) - exact) <= 1e-4 * (1 + abs(exact)), k
    assert not found[0, 0].has(sympy.I), "a real response is written in real functions"


@pytest.mark.parametrize("name", SYMBOLS)
def test_symbols_equal_powers(name: str) -> None:
    A = sympy.Matrix(SYMBOLS[name])
    order = A.shape[0]
    G, C, D = sympy.Matrix([*[0] * (order - 1), b]), sympy.Matrix([[c, *[0] * (order - 1)]]), sympy.Matrix([[0]])
    found = impulse_response(A, G, C, D)
    assert found is not None and found.free_symbols <= {a, b, c, n}
    at = {a: R(7, 10), b: R(2, 5), c: R(3, 2)}
    for k, wanted in enumerate(powers(A, G, C, D, 9)):
        got = complex(sympy.N(found[0, 0].subs(n, k).subs(at), 25))
        assert abs(got - float(wanted[0, 0].subs(at))) < 1e-14, k


def test_what_has_no_closed_form() -> None:
    companion = sympy.Matrix([[a, b, c], [1, 0, 0], [0, 1, 0]])
    one = sympy.Matrix([1, 0, 0])
    assert impulse_response(companion, one, one.T, sympy.Matrix([[0]])) is None
    large = sympy.eye(ORDER + 1)
    assert impulse_response(large, large[:, 0], large[0, :], sympy.Matrix([[0]])) is None


def test_floats_are_the_decimals_they_were_written_as() -> None:
    assert rational(np.float32(0.1)) == R(1, 10) == rational(np.float64(0.1))
    assert rational(np.float64(np.float32(0.1))) != R(1, 10)


class Pair(nn.Module):
    """Two states, one channel read out."""

    def __init__(self) -> None:
        super().__init__()
        self.A = nn.Parameter(torch.tensor([[0.9, -0.3], [0.3, 0.9]]))
        self.B, self.C = nn.Parameter(torch.tensor([1.0, 0.0])), nn.Parameter(torch.tensor([0.0, 1.0]))

    def forward(self, x: Tensor) -> Tensor:
        h, out = x.new_zeros(x.shape[0], 2), []
        for t in range(x.shape[1]):
            h = h @ self.A.T + x[:, t] * self.B
            out.append(h @ self.C)
        return torch.stack(out, 1)


def test_reports_print_what_the_program_answers() -> None:
    net, impulse = linrec.compile(Pair()), torch.zeros(2, 20, 1)
    impulse[:, 0] = 1
    got = net(impulse)[0]
    report = linrec.report(net)
    (line,) = report.recurrences[0].closed
    assert line in report.to_dict()["recurrences"][0]["closed"] and f"response: {line}" in level2(report)
    name, _, formula = line.partition(" answers x: ")
    assert name and formula == "(3*sqrt(10)/10)**n*sin(n*atan(1/3))"
    values = [float(sympy.N(sympy.sympify(formula).subs("n", k))) for k in range(20)]
    torch.testing.assert_close(got, torch.tensor(values), rtol=1e-5, atol=1e-6)
    assert "impulse response after n steps" in (page := report_page(Pair(), [impulse])) and formula in page
    with torch.no_grad():
        net.A.copy_(torch.tensor([[0.5, 1.0], [0.0, 0.5]]))  # a report is of the parameters of its moment
    assert linrec.report(net).recurrences[0].closed[0].endswith(" answers x: 0")


def test_parameters_of_the_call_stay_symbols() -> None:
    def decayed(x: Tensor, rate: Tensor) -> Tensor:
        h, out = torch.zeros_like(x[:, 0]), []
        for t in range(x.shape[1]):
            h = rate * h + x[:, t]
            out.append(h)
        return torch.stack(out, 1)

    net = linrec.compile(decayed)
    net(torch.randn(2, 20, 3), torch.rand(3))
    assert linrec.report(net).recurrences[0].closed == ("h answers x: rate**n",)


def test_nothing_is_printed_of_what_varies_or_is_large() -> None:
    def gated(x: Tensor, g: Tensor) -> Tensor:
        h, out = torch.zeros_like(x[:, 0]), []
        for t in range(x.shape[1]):
            h = g[:, t] * h + x[:, t]
            out.append(h)
        return torch.stack(out, 1)

    net = linrec.compile(gated)
    net(torch.randn(2, 20, 3), torch.rand(2, 20, 3))
    assert linrec.report(net).recurrences[0].closed == ()


class Solved(nn.Module):
    """A solved system, by a branch, into a transform, into an odd function."""

    def __init__(self) -> None:
        super().__init__()
        self.p, self.q = nn.Buffer(torch.rand(4, 4).double() - 0.5), nn.Buffer(torch.rand(4).double())
        self.lin = nn.Linear(4, 4, dtype=torch.float64)

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        steps, ys = x.shape[0], [torch.zeros_like(x[0])]
        solved, turned = x.new_empty(steps, 4), x.new_empty(steps, 4)
        solved[0], turned[0] = 0.0, 1.0
        for t in range(1, steps):
            lower = torch.eye(4, dtype=x.dtype) + torch.tril(self.p, -1)
            v = self.lin(
                torch.linalg.solve_triangular(lower, solved[t - 1].clone().unsqueeze(-1), upper=False).squeeze(-1)
            )
            solved[t] = 0.133 * v + 0.5 * x[t] if t % 3 != 2 else 0.5 * (0.133 * v)
            w = torch.fft.irfftn(torch.fft.rfftn(torch.tanh(turned[t - 1]), dim=(-1,)), s=(4,), dim=(-1,))
            turned[t] = 0.048 * w - (x[t] + solved[t])
            h = torch.tanh(turned[t]) + 0.15 * torch.sum(h * self.q, -1, keepdim=True) * self.q
            ys.append(h)
        return torch.stack(ys)


def test_odd_functions_of_what_does_not_commute_come_to_an_end() -> None:
    made = linrec.compile(Solved(), verify="off")
    made(torch.randn(9, 4, dtype=torch.float64), torch.zeros(4, dtype=torch.float64))
    assert linrec.report(made).recurrences
