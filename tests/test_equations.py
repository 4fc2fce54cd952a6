"""Equations: what they compute, against scipy and against sums written out; what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.signal
import sympy
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sympy import Eq
from torch import Tensor

import linrec

n, t, a, b, c, w = sympy.symbols("n t a b c w")
x, y, u, v, dt = map(sympy.Function, ("x", "y", "u", "v", "dt"))


def signal(channels: int = 1, length: int = 40, seed: int = 0) -> Tensor:
    return torch.randn(3, length, channels, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_one_state() -> None:
    net: Any = linrec.equations(
        Eq(x(n), a * x(n - 1) + b * u(n)), inputs=[u], outputs=[x], parameters={a: 0.9}, constants={b: 0.5}
    )
    drive = signal()
    want = scipy.signal.lfilter([0.5], [1, -0.9], drive[..., 0].numpy())
    np.testing.assert_allclose(net(drive)[..., 0].detach(), want, atol=1e-12)
    np.testing.assert_allclose(net.original(drive)[..., 0].detach(), want, atol=1e-12)
    assert set(dict(net.named_parameters())) == {"a"} and set(dict(net.named_buffers())) == {"b"}
    assert (net.report.recurrences[0].kind, net.report.recurrences[0].structure) == ("lti", "scalar")


@settings(max_examples=8, deadline=None)
@given(
    back=st.lists(st.sampled_from([-0.4, -0.1, 0.0, 0.2, 0.3]), min_size=1, max_size=4),
    ahead=st.lists(st.sampled_from([-1.0, 0.5, 2.0]), min_size=1, max_size=4),
)
def test_any_lag(back: list[float], ahead: list[float]) -> None:
    feedback = sum((value * x(n - k - 1) for k, value in enumerate(back)), sympy.Integer(0))
    drive = sum((value * u(n - k) for k, value in enumerate(ahead)), sympy.Integer(0))
    net = linrec.equations(Eq(x(n + 2), (feedback + drive).subs(n, n + 2)), inputs=[u], outputs=[x])
    data = signal()
    want = scipy.signal.lfilter(ahead, [1.0, *(-v for v in back)], data[..., 0].numpy())
    np.testing.assert_allclose(net(data)[..., 0], want, atol=1e-10)


def test_coupled_states_outputs_inputs_and_time() -> None:
    eqs = [
        Eq(x(n), a * x(n - 1) - b * y(n - 2) + sympy.tanh(u(n)) * x(n - 1) / 2),
        Eq(y(n), x(n) / 3 + y(n - 1) / (n + 2) + v(n)),
        Eq(w * 0 + sympy.Function("z")(n), 2 * y(n) - x(n - 1)),
    ]
    z = sympy.Function("z")
    net: Any = linrec.equations(eqs, inputs=[u, v], outputs=[z, y], constants={a: 0.4, b: 0.2})
    data = signal(2)
    xs, ys, zs = [np.zeros(3)] * 2, [np.zeros(3)] * 2, []
    for k in range(data.shape[1]):
        d = data[:, k].numpy()
        xs.append(0.4 * xs[-1] - 0.2 * ys[-2] + np.tanh(d[:, 0]) * xs[-1] / 2)
        ys.append(xs[-1] / 3 + ys[-1] / (k + 2) + d[:, 1])
        zs.append(2 * ys[-1] - xs[-2])
    want = np.stack([np.stack(zs, 1), np.stack(ys[2:], 1)], -1)
    np.testing.assert_allclose(net(data), want, atol=1e-12)
    np.testing.assert_allclose(net.original(data), want, atol=1e-12)
    assert [r.kind for r in net.report.recurrences] == ["ltv"]


SCIPYS = {"zoh": "zoh", "foh": "foh", "bilinear": "bilinear", "backward_euler": "backward_diff", "euler": "euler"}


@pytest.mark.parametrize("method", SCIPYS)
def test_methods_are_scipys(method: str) -> None:
    """scipy holds u[k] from sample k to k + 1, so that its state at k + 1 is ours at the end of interval k."""
    A, B = np.array([[-0.5, 1.0], [-2.0, -0.3]]), np.array([[0.3], [1.0]])
    As, Bs = sympy.symbols("A B")
    net: Any = linrec.equations(
        Eq(2 * x(t).diff(t), As * x(t) + Bs * u(t)),
        inputs=[u],
        outputs=[x],
        constants={As: A, Bs: B},
        step=0.2,
        method=method,
    )
    data = signal(1, 60)
    F, G, C, D, _ = scipy.signal.cont2discrete((A / 2, B / 2, np.eye(2), np.zeros((2, 1))), 0.2, SCIPYS[method])
    got = net(data)
    assert got.shape == (3, 60, 2)
    for sequence, result in zip(data.numpy(), got.numpy(), strict=True):
        if method in ("zoh", "euler"):
            want = scipy.signal.dlsim((F, G, C, D, 1.0), np.vstack([sequence, [[0]]]))[1][1:]
        else:  # rules that read the input at the end of the interval: y[k] is the state then, up to rest before
            before = np.vstack([np.zeros((1, 1)), sequence])
            want = scipy.signal.dlsim((F, G, C, D, 1.0), before)[1][1:]
        np.testing.assert_allclose(result, want, atol=1e-11)
    np.testing.assert_allclose(net.original(data), got, atol=1e-12)
    (r,) = net.report.recurrences
    assert (r.kind, r.structure) == ("lti", "dense")


def test_matrices_of_functions() -> None:
    m = sympy.Matrix([x(t), y(t)])
    A, B = sympy.Matrix([[-1, 2], [0, -a]]), sympy.Matrix([1, b])
    net = linrec.equations(
        Eq(m.diff(t), A * m + B * u(t)), inputs=[u], outputs=[x, y], constants={a: 0.5, b: 2.0}, step=0.1
    )
    data = signal()
    F, G, *_ = scipy.signal.cont2discrete(
        (np.array([[-1, 2], [0, -0.5]]), np.array([[1.0], [2.0]]), np.eye(2), np.zeros((2, 1))), 0.1
    )
    s = np.zeros((3, 2))
    for k, row in enumerate(net(data).unbind(1)):
        s = s @ F.T + data[:, k].numpy() @ G.T
        np.testing.assert_allclose(row, s, atol=1e-12)


def test_irregular_intervals_are_exact() -> None:
    """A held input over intervals of any length: x' = -a x + u has a closed form."""
    net: Any = linrec.equations(
        Eq(x(t).diff(t), -a * x(t) + u(t)), inputs=[u, dt], outputs=[x], parameters={a: 0.7}, step=dt
    )
    data = signal(2).abs()
    s = np.zeros(3)
    for k, row in enumerate(net(data).unbind(1)):
        d = np.exp(-0.7 * data[:, k, 1].numpy())
        s = d * s + (1 - d) / 0.7 * data[:, k, 0].numpy()
        np.testing.assert_allclose(row[:, 0].detach(), s, atol=1e-12)
    (r,) = net.report.recurrences
    assert (r.kind, r.form) == ("ltv", "scan")


def test_coefficients_that_inputs_set() -> None:
    eq = Eq(x(t).diff(t), -v(t) * x(t) + u(t))
    data = signal(2).abs()
    rest = torch.cat([data[:, :10], data[:, :1].expand(-1, 30, -1)], 1)
    got = linrec.equations(eq, inputs=[u, v], outputs=[x], step=0.5)(rest)
    assert torch.allclose(got[:, -1, 0], data[:, 0, 0] / data[:, 0, 1], rtol=0.2, atol=0.5)
    s = np.zeros(3)
    for k, row in enumerate(got.unbind(1)):
        rate, d = rest[:, k, 1].numpy(), np.exp(-0.5 * rest[:, k, 1].numpy())
        s = d * s + (1 - d) / rate * rest[:, k, 0].numpy()
        np.testing.assert_allclose(row[:, 0], s, atol=1e-12)


def test_a_higher_derivative() -> None:
    net = linrec.equations(Eq(x(t).diff(t, 2), -4 * x(t) - x(t).diff(t) * 0 + u(t)), inputs=[u], outputs=[x], step=0.01)
    y = net(torch.ones(1, 300, 1, dtype=torch.float64))[0, :, 0]
    at = 0.01 * np.arange(1, 301)
    np.testing.assert_allclose(y, (1 - np.cos(2 * at)) / 4, atol=1e-10)


def test_a_nonlinear_equation_names_its_term() -> None:
    net: Any = linrec.equations(Eq(x(t).diff(t), -sympy.sin(x(t)) + u(t)), inputs=[u], outputs=[x], step=0.1)
    data = signal(1, 20)
    s = np.zeros(3)
    for k, row in enumerate(net(data).unbind(1)):
        s = s + 0.1 * (-np.sin(s) + data[:, k, 0].numpy())
        np.testing.assert_allclose(row[:, 0], s, atol=1e-12)
    (r,) = net.report.recurrences
    assert r.form == "sequential" and "`sin`" in r.reason and "sin(x(t))" in net.remarks[0]
    squares: Any = linrec.equations(Eq(x(n), x(n - 1) * y(n - 1) + u(n)), inputs=[u, y], outputs=[x])
    assert not squares.remarks
    squares = linrec.equations([Eq(x(n), x(n - 1) ** 2 + u(n))], inputs=[u], outputs=[x])
    assert "x(n - 1)**2" in squares.remarks[0]


def test_gradients_of_parameters_and_step() -> None:
    h = sympy.Symbol("h")
    net: Any = linrec.equations(
        Eq(x(t).diff(t), -a * x(t) + b * u(t)), inputs=[u], outputs=[x], parameters={a: 0.7, b: 1.2, h: 0.3}, step=h
    )
    data = signal(1, 12).requires_grad_()
    names = ("a", "b", "h")

    def run(data: Tensor, *values: Tensor) -> Any:
        return torch.func.functional_call(net.original, dict(zip(names, values, strict=True)), (data,))

    values = [torch.tensor(p, dtype=torch.float64, requires_grad=True) for p in (0.7, 1.2, 0.3)]
    assert torch.autograd.gradcheck(run, (data, *values))
    want = torch.autograd.grad(run(data, *values).square().sum(), values)
    got = torch.autograd.grad(net(data).square().sum(), [net.a, net.b, net.h])
    torch.testing.assert_close(got, want)


@pytest.mark.parametrize(
    ("eqs", "options", "code", "words"),
    [
        (Eq(x(n), a * x(n - 1) + u(n)), {}, "LR0511", "`a` has no value"),
        (Eq(x(n), v(n) + u(n)), {}, "LR0511", "`v` is neither"),
        (Eq(x(n), x(n + 1) + u(n)), {}, "LR0512", r"`x\(n \+ 1\)` looks 1 steps ahead"),
        (Eq(x(n), x(n) / 2 + u(n)), {}, "LR0512", "on both sides"),
        ([Eq(x(n), y(n)), Eq(y(n), x(n) + u(n))], {}, "LR0512", "depend on each other"),
        (Eq(2 * x(n), u(n)), {}, "LR0512", "its left side"),
        (Eq(x(n), u(n / 2)), {}, "LR0512", "whole number of steps"),
        ([Eq(x(n), u(n)), Eq(x(n), 2 * u(n))], {}, "LR0512", "given twice"),
        (Eq(y(n), u(n)), {}, "LR0512", "no equation gives the output `x`"),
        (Eq(x(n), u(t)), {}, "LR0512", "one time, found n, t"),
        (x(n) - u(n), {}, "LR0512", "is no equation"),
        (Eq(x(n), u(n)), {"step": 0.1}, "LR0513", "there are none"),
        (Eq(x(t).diff(t), u(t)), {}, "LR0513", "need a step size"),
        (Eq(x(t).diff(t), u(t)), {"step": -1.0}, "LR0513", "positive"),
        (Eq(x(t).diff(t), u(t)), {"step": b}, "LR0511", "`b` has no value"),
        (Eq(x(t).diff(t), u(t)), {"step": 0.1, "method": "best"}, "LR0513", "'best'"),
        (Eq(x(t).diff(t), -(x(t) ** 3) + u(t)), {"step": 0.1, "method": "zoh"}, "LR0513", r"x\(t\)\*\*3"),
        (Eq(x(t).diff(t), u(t) * x(t)), {"step": 0.1, "method": "bilinear"}, "LR0513", "do not depend on inputs"),
        (Eq(x(t).diff(t), u(t - 1)), {"step": 0.1}, "LR0512", "a delay in continuous time"),
    ],
)  # fmt: skip
def test_refusals_name_the_place(eqs: Any, options: dict[str, Any], code: str, words: str) -> None:
    with pytest.raises(linrec.DeclarationError, match=words) as caught:
        linrec.equations(eqs, inputs=[u], outputs=[x], **options)
    assert caught.value.code == code and caught.value.help


# and out ---------------------------------------------------------------------------------------------


def decayed(x: Tensor, a: Tensor, b: Tensor) -> Tensor:
    h, ys = torch.zeros_like(x[:, 0]), []
    for k in range(x.shape[1]):
        h = a * h + b * x[:, k]
        ys.append(torch.tanh(h))
    return torch.stack(ys, 1)


def test_a_recurrence_of_any_program_as_an_equation() -> None:
    net = linrec.compile(decayed)
    net(torch.randn(2, 20, 3), torch.rand(3), torch.rand(3))
    found = linrec.to_sympy(net)
    m, z = sympy.Symbol("n", integer=True), sympy.Symbol("z")
    h, X = sympy.Function("h"), sympy.Function("x")
    assert found.equations == (Eq(h(m), a * h(m - 1) + b * X(m)),)
    assert sympy.simplify(found.transfer["x"] - b * z / (z - a)) == 0
    assert found.impulse["x"] == b * a**m
    assert r"h{\left(n - 1 \right)}" in found.latex()
    with pytest.raises(KeyError, match="r0"):
        linrec.to_sympy(net, "r7")


def test_closed_forms_are_what_the_program_does() -> None:
    net: Any = linrec.equations(Eq(x(n), x(n - 1) / 2 + x(n - 2) / 4 + 3 * u(n)), inputs=[u], outputs=[x])
    impulse = torch.zeros(2, 12, 1, dtype=torch.float64)
    impulse[:, 0] = 1
    got = net(impulse)[0, :, 0]
    found = linrec.to_sympy(net)
    (response,) = found.impulse.values()
    (transfer,) = found.transfer.values()
    m, z = sympy.Symbol("n", integer=True), sympy.Symbol("z")
    np.testing.assert_allclose(got, [float(response.subs(m, k)) for k in range(12)], rtol=1e-12)
    series = sympy.series(transfer.subs(z, 1 / z), z, 0, 6).removeO()
    np.testing.assert_allclose(got[:6], [float(series.coeff(z, k)) for k in range(6)], rtol=1e-12)


def test_matrices_and_nonlinear_steps_are_written_too() -> None:
    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.A, self.W = torch.nn.Parameter(torch.randn(4, 4) / 4), torch.nn.Linear(3, 4, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            h, g = x.new_zeros(x.shape[0], 4), x.new_zeros(x.shape[0], 4)
            for k in range(x.shape[1]):
                h = h @ self.A.T + self.W(x[:, k])
                g = torch.tanh(g + h)
            return g + h

    net: Any = linrec.compile(Net())
    net(torch.randn(2, 20, 3))
    names = {r.states[0]: r.name for r in net.report.recurrences}
    linear, bent = linrec.to_sympy(net, names["h"]), linrec.to_sympy(net, names["g"])
    assert str(linear) == "h(n) = A*h(n - 1) + W.weight*x(n)"
    assert str(linear.impulse["x"]) == "A**n*W.weight"
    assert str(bent).startswith("g(n) = tanh(") and not bent.impulse
