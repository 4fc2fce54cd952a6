"""Systems and filters: what scipy computes, to fewer errors than its own, trainable and stable."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import scipy.signal
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

import linrec

Array = NDArray[Any]


def exactly(A: Array, B: Array, C: Array, D: Array, u: Array, s: Array | None = None) -> Array:
    """y of (A, B, C, D) in long double, for u (T, inputs)."""
    A, B, C, D, u = (np.asarray(m, dtype=np.longdouble) for m in (A, B, C, D, u))
    s = np.zeros(len(A), np.longdouble) if s is None else s.astype(np.longdouble)
    rows = []
    for u_t in u:
        rows.append(C @ s + D @ u_t)
        s = A @ s + B @ u_t
    return np.array(rows)


def filtered(b: Array, a: Array, x: Array) -> Array:
    """b(z)/a(z) in long double by the transposed direct form II."""
    n = max(len(a), len(b))
    num, den = (np.pad(np.asarray(p, np.longdouble), (0, n - len(p))) / np.longdouble(a[0]) for p in (b, a))
    A = np.zeros((n - 1, n - 1), np.longdouble)
    A[:, :1] -= den[1:, None]
    A[:-1, 1:] += np.eye(n - 2)
    return exactly(A, (num[1:] - den[1:] * num[0])[:, None], np.eye(1, n - 1), num[:1, None], x[:, None])[:, 0]


def bound(reference: Array, peer: Array) -> float:
    """Ten times the error of scipy, and 1e-12."""
    return 10 * float(np.abs(peer - reference).max()) + 1e-12


def stable_poles(order: int, radius: float, seed: int) -> Array:
    rng = np.random.default_rng(seed)
    poles: list[complex] = []
    while len(poles) < order:
        r = radius * np.sqrt(rng.random())
        pair = r * np.exp(1j * np.pi * rng.random())
        poles += [pair, pair.conjugate()] if order - len(poles) > 1 and rng.random() < 0.8 else [r]
    return np.array(poles)


def double(x: Array) -> Tensor:
    return torch.as_tensor(np.asarray(x, dtype=np.float64))


@settings(max_examples=20, deadline=None)
@given(order=st.integers(1, 20), radius=st.sampled_from([0.5, 0.9, 0.99]), seed=st.integers(0, 1000))
def test_filters_of_any_order(order: int, radius: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    a = np.poly(stable_poles(order, radius, seed)).real * 2
    b, x = rng.standard_normal(order + 1), rng.standard_normal(600)
    reference, peer = filtered(b, a, x), scipy.signal.lfilter(b, a, x)
    assert np.abs(linrec.filter(b, a)(double(x)).numpy() - reference).max() <= bound(reference, peer)


@pytest.mark.parametrize("order", [3, 8, 13, 20])
def test_designed_filters(order: int) -> None:
    x = np.random.default_rng(0).standard_normal(900)
    b, a = scipy.signal.butter(order, 0.3)
    reference = filtered(b, a, x)
    assert np.abs(linrec.filter(b, a)(double(x)).numpy() - reference).max() <= bound(
        reference, scipy.signal.lfilter(b, a, x)
    )
    sos = scipy.signal.ellip(order, 0.5, 60, 0.2, output="sos")
    reference = x
    for section in sos:
        reference = filtered(section[:3], section[3:], reference)
    assert np.abs(linrec.filter(sos=sos)(double(x)).numpy() - reference).max() <= bound(
        reference, scipy.signal.sosfilt(sos, x)
    )


@settings(max_examples=15, deadline=None)
@given(
    order=st.integers(1, 20), inputs=st.integers(1, 3), outputs=st.integers(1, 3), seed=st.integers(0, 1000),
    companion=st.booleans(),
)  # fmt: skip
def test_systems_of_any_order(order: int, inputs: int, outputs: int, seed: int, companion: bool) -> None:
    rng = np.random.default_rng(seed)
    if companion:
        given_system = scipy.signal.dlti(rng.standard_normal(order), np.poly(stable_poles(order, 0.95, seed)).real)
        inputs = 1
    else:
        A = rng.standard_normal((order, order))
        A *= 0.95 / np.abs(np.linalg.eigvals(A)).max()
        B, C, D = (rng.standard_normal(s) for s in ((order, inputs), (outputs, order), (outputs, inputs)))
        given_system = scipy.signal.dlti(A, B, C, D)
    u = rng.standard_normal((400, inputs))
    space = given_system.to_ss()
    reference = exactly(space.A, space.B, space.C, space.D, u)
    got = linrec.system(given_system)(double(u)[None])[0].numpy()
    assert np.abs(got - reference).max() <= bound(reference, scipy.signal.dlsim(given_system, u)[1])


def test_continuous_systems_with_each_method() -> None:
    plain = scipy.signal.lti([1.0, 3.0], [1.0, 2.0, 5.0])
    u = np.random.default_rng(0).standard_normal((200, 1))
    for method in ("zoh", "foh", "bilinear", "euler", "backward_diff"):
        want = scipy.signal.dlsim(plain.to_ss().to_discrete(0.05, method=method), u)[1]
        np.testing.assert_allclose(linrec.system(plain, dt=0.05, method=method)(double(u)[None])[0], want, atol=1e-11)


def test_all_ways_of_writing_a_system() -> None:
    zeros, poles, gain = [0.2, 0.0, -0.4], [0.5, 0.7, -0.1], 2.0
    b, a = scipy.signal.zpk2tf(zeros, poles, gain)
    sos = scipy.signal.zpk2sos(zeros, poles, gain)
    space = scipy.signal.dlti(b, a).to_ss()
    control = SimpleNamespace(A=space.A, B=space.B, C=space.C, D=space.D, dt=True)
    continuous = SimpleNamespace(A=[[-1.0]], B=[[1.0]], C=[[1.0]], D=[[0.0]], dt=0)
    x = np.random.default_rng(0).standard_normal(100)
    want = scipy.signal.lfilter(b, a, x)
    for written in ((b, a), (zeros, poles, gain), (space.A, space.B, space.C, space.D), sos, control):
        np.testing.assert_allclose(linrec.system(written)(double(x)[None, :, None])[0, :, 0], want, atol=1e-12)
    y = linrec.system(continuous, dt=0.1)(torch.ones(1, 50, 1, dtype=torch.float64))
    np.testing.assert_allclose(y[0, :, 0], 1 - np.exp(-0.1 * np.arange(50)), atol=1e-12)


def test_initial_and_final_states_are_scipys() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((3, 200))
    b, a = scipy.signal.butter(5, 0.3)
    zi = rng.standard_normal((3, 5))
    y, zf = linrec.filter(b, a)(double(x), double(zi))
    want, left = scipy.signal.lfilter(b, a, x, zi=zi)
    np.testing.assert_allclose(y, want, atol=1e-11)
    np.testing.assert_allclose(zf, left, atol=1e-11)
    sos = scipy.signal.butter(5, 0.3, output="sos")
    zs = rng.standard_normal((3, 3, 2))
    y, zf = linrec.filter(sos=sos)(double(x), double(zs))
    want, left = scipy.signal.sosfilt(sos, x, zi=zs)
    np.testing.assert_allclose(y, want, atol=1e-11)
    np.testing.assert_allclose(zf, left, atol=1e-11)
    space = scipy.signal.dlti(*scipy.signal.butter(8, 0.2)).to_ss()
    s = rng.standard_normal(8)
    u = rng.standard_normal((100, 1))
    got = linrec.system(space)(double(u)[None], double(s))[0]
    np.testing.assert_allclose(got, exactly(space.A, space.B, space.C, space.D, u, s).astype(float), atol=1e-9)


def test_compiled_and_plain_agree_and_step() -> None:
    net: Any = linrec.filter(*scipy.signal.butter(4, 0.2))
    x = torch.randn(3, 300)
    torch.testing.assert_close(net(x), net.original(x))
    (r,) = net.report.recurrences
    assert r.kind == "lti" and r.form != "sequential"
    assert (
        not hasattr(type(net.original), "_linrec_original")
        and net.original.state_dict().keys() == net.state_dict().keys()
    )
    rnn, state = net.recurrent(), None
    whole = net(x)
    for t in range(4):
        y, state = rnn.step(x[:, t], state=state)
        torch.testing.assert_close(y, whole[:, t])


@pytest.mark.parametrize("length", [1, 2, 191, 192, 193, 500, 2000])
def test_rows_of_a_long_signal(length: int) -> None:
    """Lengths around those at which the chunked form cuts the signal into rows."""
    b, a = scipy.signal.butter(8, 0.2)
    made: Any = linrec.filter(b, a)
    net: Any = linrec.compile(made.original, forms="chunked")
    x = np.random.default_rng(0).standard_normal((2, length))
    np.testing.assert_allclose(net(double(x)), scipy.signal.lfilter(b, a, x), atol=1e-12)
    np.testing.assert_allclose(net(double(x)), scipy.signal.lfilter(b, a, x), atol=1e-12)


def test_a_nan_stays_where_the_loop_has_it() -> None:
    net: Any = linrec.filter(*scipy.signal.butter(8, 0.2))
    x = torch.randn(2, 1000)
    net(x)
    x[0, 300] = torch.nan
    y = net(x)
    assert y[0, :300].isfinite().all() and y[0, 300:].isnan().all() and y[1].isfinite().all()


def test_gradients_of_signals_states_and_coefficients() -> None:
    b, a = scipy.signal.butter(3, 0.4)
    x, zi = (
        torch.randn(2, 12, dtype=torch.float64, requires_grad=True),
        torch.randn(2, 3, dtype=torch.float64, requires_grad=True),
    )
    assert torch.autograd.gradcheck(linrec.filter(b, a), (x, zi))
    for made in (linrec.filter(b, a, trainable=True), linrec.system((b, a), trainable=True)):
        net: Any = made
        names, values = zip(*net.original.named_parameters(), strict=True)
        u = x.detach() if "angles" in " ".join(names) else x.detach().unsqueeze(-1)

        def run(*values: Tensor, net: Any = net, names: Any = names, u: Tensor = u) -> Any:
            return torch.func.functional_call(net.original, dict(zip(names, values, strict=True)), (u,))

        assert torch.autograd.gradcheck(run, values)
        want = torch.autograd.grad(run(*values).square().sum(), values)
        got = torch.autograd.grad(net(u).square().sum(), list(net.parameters()))
        torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("order", [1, 2, 8, 20])
def test_trainable_starts_equal_and_stays_stable(order: int) -> None:
    b, a = scipy.signal.butter(order, 0.3)
    sos = scipy.signal.butter(order, 0.3, output="sos")
    x = np.random.default_rng(0).standard_normal(300)
    net: Any
    nets: list[Any] = [linrec.filter(b, a, trainable=True), linrec.filter(sos=sos, trainable=True)]
    for net in nets:
        np.testing.assert_allclose(net(double(x)).detach(), filtered(b, a, x).astype(float), atol=1e-10)
        with torch.no_grad():
            for p in net.parameters():
                p += torch.randn_like(p)
        A = net.matrices()[0].detach().numpy()
        assert np.abs(np.linalg.eigvals(A)).max() < 1
    net = linrec.system((b, a), trainable=True)
    np.testing.assert_allclose(
        net(double(x)[None, :, None])[0, :, 0].detach(), filtered(b, a, x).astype(float), atol=1e-8
    )
    with torch.no_grad():
        net.X += torch.randn_like(net.X)
    assert np.abs(np.linalg.eigvals(net.matrices()[0].detach().numpy())).max() < 1


def test_an_unstable_system_is_a_remark(caplog: pytest.LogCaptureFixture) -> None:
    net: Any = linrec.filter([1.0], [1.0, -1.02])
    assert "LR0524" in caplog.text and "1.02" in net.remarks[0] and "unstable" in repr(net)
    x = np.random.default_rng(0).standard_normal(50)
    np.testing.assert_allclose(net(double(x)), scipy.signal.lfilter([1.0], [1.0, -1.02], x), rtol=1e-12)
    assert linrec.system(scipy.signal.lti([1.0], [1.0, -1.0]), dt=0.1).remarks


@pytest.mark.parametrize(
    ("declare", "code", "words"),
    [
        (lambda: linrec.system((np.eye(2), np.eye(3), np.eye(2), np.eye(2))), "LR0521", r"B \(3, 3\)"),
        (lambda: linrec.system(([1.0, 2.0, 3.0], [1.0, 0.5])), "LR0522", "2 zeros and 1 poles"),
        (lambda: linrec.system(scipy.signal.lti([1.0], [1.0, 1.0])), "LR0523", "step size"),
        (lambda: linrec.system(scipy.signal.dlti([1.0], [1.0, 0.5], dt=0.1), dt=0.2), "LR0523", "dt=0.1"),
        (lambda: linrec.system(scipy.signal.lti([1.0], [1.0, 1.0]), dt=1, method="best"), "LR0523", "'best'"),
        (lambda: linrec.system("a string"), "LR0523", "a str"),
        (lambda: linrec.system(([[1j]], [[1]], [[1]], [[0]])), "LR0523", "complex"),
        (lambda: linrec.filter(), "LR0523", "by b and a"),
        (lambda: linrec.filter(sos=np.ones((2, 5))), "LR0521", r"\(2, 5\)"),
        (lambda: linrec.filter([1.0, np.nan]), "LR0521", "b of the filter"),
        (lambda: linrec.filter([1.0], [0.0, 1.0]), "LR0522", r"a\[0\]"),
    ],
)
def test_refusals_say_what_and_how(declare: Any, code: str, words: str) -> None:
    with pytest.raises(linrec.DeclarationError, match=words) as caught:
        declare()
    assert caught.value.code == code and caught.value.help


def test_signals_that_do_not_fit() -> None:
    with pytest.raises(linrec.ShapeError, match=r"\(batch, T, 1\)"):
        linrec.system(([1.0], [1.0, 0.5]))(torch.randn(4, 9))
    with pytest.raises(linrec.ShapeError, match="zi has shape"):
        linrec.filter([1.0], [1.0, 0.5])(torch.randn(4, 9), torch.randn(4, 2))
