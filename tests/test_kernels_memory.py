"""Kernels that move memory: registers of steps, results past the caches, powers of diagonals, transposes, constants."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import linrec
from linrec import native
from linrec.constants import Cached
from linrec.kernels import compiled, layout
from linrec.kernels.diagonal import responses

needs_kernels = pytest.mark.skipif(native.kernels() is None, reason="no C compiler when linrec was built")


def walked(a: Tensor, b: Tensor, state: Tensor) -> Tensor:
    states = []
    for step_a, step_b in zip(a, b, strict=True):
        state = step_a * state + step_b
        states.append(state)
    return torch.stack(states)


@needs_kernels
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("steps", "lanes"), [(1, 1), (5, 3), (16, 1), (17, 2), (33, 1), (3000, 3)])
def test_steps_side_by_side(dtype: torch.dtype, steps: int, lanes: int) -> None:
    a, b, g = (0.7 * torch.randn(lanes, steps, dtype=dtype).T for _ in range(3))
    start = torch.randn(lanes, dtype=dtype)
    h = compiled.forward(a, b, start)
    wide = [x.double().clone().requires_grad_() for x in (a, b, start)]
    expected = walked(*wide)
    gradients = torch.autograd.grad(expected, wide, g.double())
    tolerance = 2e-5 if dtype == torch.float32 else 1e-12
    found = (h, *compiled.backward(a, g, h, start))
    for got, wanted in zip(found, (expected.detach(), *gradients), strict=True):
        torch.testing.assert_close(got.double(), wanted, rtol=tolerance, atol=tolerance)


@needs_kernels
def test_steps_side_by_side_overflow_where_the_loop_does() -> None:
    a, b = torch.full((1, 64), 1e30).T, torch.zeros(1, 64).T
    b[40] = 1e-20
    torch.testing.assert_close(compiled.forward(a, b, torch.zeros(1)), walked(a, b, torch.zeros(1)))
    a[10], b[3] = math.inf, 1.0
    expected = walked(a, b, torch.zeros(1))
    torch.testing.assert_close(compiled.forward(a, b, torch.zeros(1)), expected, equal_nan=True)


@needs_kernels
@pytest.mark.parametrize("lanes", [1024, 264, 1023])  # whole lines at every step, a tile's rest, no whole lines
def test_large_results_past_the_caches(lanes: int) -> None:
    steps = (1 << 21) // lanes + 100
    a, b, g, zero = torch.rand(steps, lanes), torch.rand(steps, lanes), torch.rand(steps, lanes), torch.zeros(lanes)
    h = compiled.forward(a, b, zero)
    torch.testing.assert_close(h.double(), walked(a.double(), b.double(), zero.double()), rtol=1e-5, atol=1e-5)
    da, db, _ = compiled.backward(a, g, h, zero)
    after = torch.cat([a[1:], zero.unsqueeze(0)]).flip(0).double()
    expected = walked(after, g.flip(0).double(), zero.double()).flip(0)
    torch.testing.assert_close(db.double(), expected, rtol=1e-5, atol=1e-5)
    before = torch.cat([zero.unsqueeze(0), h[:-1]]).double()
    torch.testing.assert_close(da.double(), expected * before, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize("real", [False, True])
@pytest.mark.parametrize("shape", [(2, 3, 1, 1, 10), (1, 4, 2, 3, 17), (3, 2, 2, 1, 1), (2, 2, 1, 2, 2)])
def test_responses_of_a_diagonal(dtype: torch.dtype, real: bool, shape: tuple[int, ...]) -> None:
    groups, n, p, q, count = shape
    a = (0.5 * torch.randn(groups, n, dtype=dtype)).requires_grad_()
    g = torch.randn(groups, n, p, dtype=dtype, requires_grad=True)
    c = torch.randn(groups, q, n, dtype=dtype, requires_grad=True)
    kept = torch.float64 if real else dtype

    def run(a: Tensor, g: Tensor, c: Tensor) -> Tensor:
        return responses(a, g, c, count, real, kept)

    expected = torch.stack([torch.einsum("gqn,gn,gnp->gqp", c, a**k, g) for k in range(count)], -1)
    torch.testing.assert_close(run(a, g, c), expected.real if real else expected)
    assert torch.autograd.gradcheck(run, (a, g, c))
    assert torch.autograd.gradgradcheck(run, (a, g, c))


def modes(x: Tensor, a: Tensor, c: Tensor) -> Tensor:
    h, out = torch.zeros(x.shape[0], *a.shape, dtype=a.dtype), []
    for t in range(x.shape[1]):
        h = a * h + x[:, t].unsqueeze(-1)
        out.append((c * h).sum(-1).real)
    return torch.stack(out, 1)


@pytest.mark.parametrize("form", ["convolution", "chunked"])
def test_the_real_part_of_complex_modes(form: str) -> None:
    net = linrec.compile(modes, forms=form)
    a = (0.9 * torch.exp(1j * torch.rand(3, 5))).to(torch.complex64).requires_grad_()
    c, x = torch.randn(3, 5, dtype=torch.complex64, requires_grad=True), torch.randn(2, 300, 3, requires_grad=True)
    y, expected = net(x, a, c), modes(x, a, c)
    assert (linrec.report(net).recurrences[0].form, y.dtype) == (form, torch.float32)
    torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-4)
    probe = torch.randn_like(y)
    for got, wanted in zip(
        torch.autograd.grad(y, [x, a, c], probe), torch.autograd.grad(expected, [x, a, c], probe), strict=True
    ):
        torch.testing.assert_close(got, wanted, rtol=1e-3, atol=1e-3)
    loud = x.detach().clone()
    loud[0, 150] = math.inf  # no FFT: the steps before it stay finite
    assert torch.equal(net(loud, a, c).isfinite(), modes(loud, a, c).isfinite())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex64])
@pytest.mark.parametrize("shape", [(2, 500, 3, 7), (1, 700, 64, 1), (3, 5000, 1, 1), (2, 8, 3, 1)])
def test_channels_of_steps_and_back(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    b, t, g, p = shape
    whole = torch.randn(b, t, g + 2, p, dtype=dtype)
    for x in (whole, whole[:, :, 1 : g + 1]):
        rows = torch.zeros(b, x.shape[2], p, t + 5, dtype=dtype)
        layout.to_rows(x, rows)
        assert torch.equal(rows[..., :t], x.permute(0, 2, 3, 1)) and not rows[..., t:].any()
        back = torch.empty_like(whole)[:, :, : x.shape[2]]
        layout.from_rows(rows, back)
        assert torch.equal(back, x)
        torch.testing.assert_close(layout.loudest(x), x.abs().amax((0, 2, 3)))


@pytest.mark.parametrize("width", [1, 4])
def test_what_is_not_a_number_is_loudest(width: int) -> None:
    x = torch.randn(2, 5000, width, 1)
    x[1, 7, 0], x[0, 9, 0] = math.nan, -math.inf
    loud = layout.loudest(x)
    assert loud[7].isnan() and loud[9] == math.inf and loud.isfinite().sum() == 4998


def test_a_constant_is_made_anew_when_a_number_changes_unseen() -> None:
    made: list[int] = []

    def double(x: Tensor) -> Tensor:
        made.append(1)
        return 2 * x

    cached, x = Cached(double, 1), torch.randn(4, 3)
    for view in (x, x.T):  # lying as one piece, and not
        made.clear()
        for _ in range(2):
            assert torch.equal(cached(view), 2 * view)
        assert len(made) == 1
        x.data[2, 1] += 1  # no version tells of it
        assert torch.equal(cached(view), 2 * view) and len(made) == 2
