"""The dense scan against a loop in double precision: compiled, in plain operators, and under every transform of torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import test_kernels_scan
import torch
from contract import dispatched
from test_kernels_scan import BOTH, check, near
from torch import Tensor

import linrec
from linrec import native
from linrec.kernels import compiled_dense, scan

SINGLE = (torch.float32, torch.complex64)
ALL = [*SINGLE, torch.float64, torch.complex128]
# elements, and which of their axes have transitions of their own: alone, own, shared in lanes, few shared, both
BATCHES = {
    "alone": ((), ()),
    "own": ((5,), (5,)),
    "lanes": ((37,), (1,)),
    "few": ((2,), (1,)),
    "mixed": ((2, 3), (1, 3)),
}
EACH = pytest.mark.parametrize("batch", BATCHES)


def loop(a: Tensor, b: Tensor, start: Tensor) -> Tensor:
    s, out = start, []
    for k in range(b.shape[0]):
        s = (a[k if a.shape[0] > 1 else 0] @ s.unsqueeze(-1)).squeeze(-1) + b[k]
        out.append(s)
    return torch.stack(out)


def parts(
    steps: int, batch: str, n: int, dtype: torch.dtype = torch.float64, *, own_steps: bool = True
) -> list[Tensor]:
    generator = torch.Generator().manual_seed(steps + n)
    elements, own = BATCHES[batch]

    def made(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.complex128 if dtype.is_complex else torch.float64)

    a = 0.8 * made(steps if own_steps else 1, *own, n, n) / n**0.5
    return [x.to(dtype).requires_grad_() for x in (a, made(steps, *elements, n), made(*elements, n))]


@BOTH
@EACH
@pytest.mark.parametrize("dtype", ALL)
@pytest.mark.parametrize("steps", [1, 2, 3, 65])
@pytest.mark.parametrize("n", [2, 7])
def test_values_and_gradients(path: str, batch: str, dtype: torch.dtype, steps: int, n: int) -> None:
    check(scan.scan_dense, parts(steps, batch, n, dtype), 5e-5 if dtype in SINGLE else 1e-12, loop)


@BOTH
@EACH
@pytest.mark.parametrize("dtype", ALL)
def test_one_transition_for_all_steps(path: str, batch: str, dtype: torch.dtype) -> None:
    check(scan.scan_dense, parts(33, batch, 5, dtype, own_steps=False), 5e-5 if dtype in SINGLE else 1e-12, loop)


@EACH
@pytest.mark.parametrize("dtype", ALL)
@pytest.mark.parametrize("is_back", [False, True])
def test_every_width(batch: str, dtype: torch.dtype, is_back: bool) -> None:
    """Whole vectors, quarters and single numbers, rows and columns of A in memory, and what the plain path finds."""
    if native.kernels() is None:
        pytest.skip("built without compiled kernels")
    for n in (1, 2, 3, 4, 5, 6, 8, 9, 12, 15, 16, 21, 33, 67, 131):
        a, b, start = (x.detach() for x in parts(4, batch, n, dtype))
        given = (a.mT.contiguous().mT if is_back else a, b, start)
        want = loop(*(x.to(torch.complex128 if dtype.is_complex else torch.float64) for x in given))
        near(scan.scan_dense(*given), want.to(dtype), 1e-5 if dtype in SINGLE else 1e-13)


@BOTH
def test_layouts(path: str) -> None:
    """Batch-first views, reversed time, strided, conjugate and negative views, expanded drives and transitions."""
    for batch in ("own", "few", "lanes"):
        a, b, start = (x.detach() for x in parts(20, batch, 6, torch.complex128))
        a_first, b_first = (x.transpose(0, 1).contiguous().transpose(0, 1) for x in (a, b))
        near(scan.scan_dense(a_first, b_first, start), loop(a, b, start), 1e-13)
        turned = (a.mH.conj(), b.conj(), start.conj())
        near(scan.scan_dense(*turned), loop(*turned), 1e-13)
        negative = (a.conj().imag, b.conj().imag.flip(0), start.imag)
        near(scan.scan_dense(*negative), loop(*negative), 1e-13)
        strided = (torch.stack([a.real, b[:, :1, :, None].real.expand_as(a)], -1)[..., 0], b.real, start.real)
        near(scan.scan_dense(*strided), loop(*strided), 1e-13)
        alike = (a[..., :1, :1].real.expand_as(a) / 9, b[:, :, :1].real.expand_as(b), start.real)
        near(scan.scan_dense(*alike), loop(*alike), 1e-13)


@BOTH
def test_gradients_of_views(path: str) -> None:
    """Gradients reach what conjugates, transposes and reversed time were taken of, whatever the layout of theirs."""
    a, b, start = parts(20, "few", 6, torch.complex128)
    found = scan.scan_dense(a.mH.flip(0), b.conj().flip(0), start).transpose(0, 1)
    want = loop(a.mH.flip(0), b.conj().flip(0), start).transpose(0, 1)
    probe = torch.randn_like(want)
    have, wanted = (torch.autograd.grad(y, (a, b, start), probe) for y in (found, want))
    for one, other in zip(have, wanted, strict=True):
        near(one, other, 1e-12)
    have, wanted = (torch.autograd.grad(f(a, b, start).real.sum(), (a, b, start)) for f in (scan.scan_dense, loop))
    for one, other in zip(have, wanted, strict=True):  # the gradient of a sum is expanded
        near(one, other, 1e-12)


@BOTH
@pytest.mark.parametrize("shape", [(0, (0,)), (0, (1,))])
def test_empty_batch(path: str, shape: tuple[int, tuple[int]]) -> None:
    a, b, start = torch.rand(9, *shape[1], 3, 3), torch.rand(9, 0, 3), torch.rand(0, 3)
    assert scan.scan_dense(a, b.requires_grad_(), start).shape == (9, 0, 3)


@BOTH
def test_half_precision_is_scanned_in_single_precision(path: str) -> None:
    a = torch.full((2000, 1, 2, 2), 0.4995, dtype=torch.bfloat16)
    b, start = torch.ones(2000, 3, 2, dtype=torch.bfloat16), torch.zeros(3, 2, dtype=torch.bfloat16)
    have, want = scan.scan_dense(a, b, start), loop(a.double(), b.double(), start.double())
    assert have.dtype == torch.bfloat16 and ((have.double() - want).abs() / want).max() < 5e-3


@EACH
@pytest.mark.parametrize("n", [3, 6, 20])
@pytest.mark.parametrize("worst", [float("nan"), float("inf"), 1e300])
def test_what_is_not_finite_stays_where_the_loop_has_it(batch: str, n: int, worst: float) -> None:
    if native.kernels() is None:
        pytest.skip("built without compiled kernels")
    for place in (0, 1):
        inputs = [x.detach() for x in parts(12, batch, n)]
        inputs[place][4].view(-1)[1] = worst
        inputs[place][7].view(-1)[-1] = -worst
        have, want = scan.scan_dense(*inputs), loop(*inputs)
        assert torch.equal(have.isfinite(), want.isfinite()) and torch.equal(have.isnan(), want.isnan())
        known = want.isfinite()
        torch.testing.assert_close(have[known], want[known], rtol=1e-10, atol=1e-10)


@EACH
def test_threads(batch: str) -> None:
    """Elements are shared out to threads; each is computed as by one."""
    if native.kernels() is None:
        pytest.skip("built without compiled kernels")
    inputs, before = parts(200, batch, 12, torch.float32), torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2, 3, 5):
            torch.set_num_threads(threads)
            y = scan.scan_dense(*inputs)
            found.append((y, torch.autograd.grad(y.sin().sum(), inputs[1])[0]))
    finally:
        torch.set_num_threads(before)
    for y, gradient in found[1:]:
        assert torch.equal(y, found[0][0]) and torch.equal(gradient, found[0][1])


class TestTransforms(test_kernels_scan.TestTransforms):
    """Compiled kernels step aside for what they do not know of."""

    run = staticmethod(scan.scan_dense)
    loop = staticmethod(loop)

    def inputs(self) -> list[Tensor]:
        return parts(9, "few", 3)

    def test_second_order(self) -> None:
        for batch in ("alone", "own", "few", "mixed"):
            for own_steps in (True, False):
                inputs = tuple(parts(3, batch, 2, own_steps=own_steps))
                torch.autograd.gradcheck(scan.scan_dense, inputs)
                torch.autograd.gradgradcheck(scan.scan_dense, inputs)
        inputs = tuple(parts(3, "few", 2, torch.complex128))
        torch.autograd.gradcheck(scan.scan_dense, inputs)
        torch.autograd.gradgradcheck(scan.scan_dense, inputs)

    def test_second_order_of_inputs_made_of_one_another(self) -> None:
        """No path from one to the other is counted twice."""

        def run(x: Tensor) -> Tensor:
            a = 0.3 * x.unsqueeze(-1) * x.sin().unsqueeze(-2)
            return scan.scan_dense(a, x * a.sum(-1), x[0] + a[0, ..., 0])

        x = torch.randn(4, 3, 2, dtype=torch.float64, requires_grad=True)
        torch.autograd.gradcheck(run, (x,))
        torch.autograd.gradgradcheck(run, (x,))


def test_the_compiled_path_is_the_one_that_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    if native.kernels() is None:
        pytest.skip("built without compiled kernels")
    seen, walk = [], compiled_dense._walk

    def spied(*tensors: Tensor, is_back: bool) -> None:
        seen.append(is_back)
        walk(*tensors, is_back=is_back)

    monkeypatch.setattr(compiled_dense, "_walk", spied)
    scan.scan_dense(*parts(40, "own", 5)).sum().backward()  # type: ignore[no-untyped-call]
    assert seen == [False, True]


# programs ------------------------------------------------------------------------------------------------


def each_its_own(a: Tensor, x: Tensor) -> Tensor:
    h, out = torch.zeros_like(x[:, 0]), []
    for t in range(x.shape[1]):
        h = torch.einsum("bij,bj->bi", a[:, t], h) + x[:, t]
        out.append(h)
    return torch.stack(out, 1)


def gated(g: Tensor, x: Tensor, m: Tensor) -> Tensor:
    h, out = torch.zeros_like(x[:, 0]), []
    for t in range(x.shape[1]):
        h = g[:, t] * (h @ m) + x[:, t]
        out.append(h)
    return torch.stack(out, 1)


def shared(a: Tensor, x: Tensor) -> Tensor:
    h, out = torch.zeros_like(x[:, 0]), []
    for t in range(x.shape[1]):
        h = h @ a[t].T + x[:, t]
        out.append(h)
    return torch.stack(out, 1)


def given(name: str, b: int, steps: int, n: int) -> tuple[Any, Sequence[Tensor]]:
    """A program and its inputs."""
    x = torch.randn(b, steps, n)
    return {
        "own": (each_its_own, (0.3 * torch.randn(b, steps, n, n) / n**0.5, x)),
        "gated": (gated, (torch.rand(b, steps, n), x, torch.randn(n, n) / n**0.5)),
        "shared": (shared, (0.3 * torch.randn(steps, n, n) / n**0.5, x)),
    }[name]


def test_transitions_that_are_an_input_as_it_is() -> None:
    """The matrix of a product without a batch is the transition itself."""

    def program(a: Tensor, x: Tensor) -> Tensor:
        h, out = torch.zeros_like(x[0]), []
        for t in range(len(x)):
            h = a @ h + x[t]
            out.append(h)
        return torch.stack(out)

    net, inputs = linrec.compile(program, forms="associative"), (0.3 * torch.randn(5, 5), torch.randn(40, 5))
    torch.testing.assert_close(net(*inputs), program(*inputs), rtol=1e-4, atol=1e-5)
    assert [r.form for r in linrec.report(net).recurrences] == ["associative"]


@pytest.mark.parametrize("n", [2, 12, 32])
@pytest.mark.parametrize("name", ["own", "gated", "shared"])
def test_dense_systems_are_scanned(name: str, n: int) -> None:
    """Small dense systems leave the loop; operators grow with sqrt(T) where each is handled, by none where none is."""
    if native.kernels() is None:
        pytest.skip("built without compiled kernels")
    program, inputs = given(name, 4, 64, n)
    net = linrec.compile(program)
    torch.testing.assert_close(net(*inputs), program(*inputs), rtol=1e-4, atol=1e-5)
    assert [r.form for r in linrec.report(net).recurrences] == ["associative"]
    counts, events = [], []
    for steps in (64, 256):
        inputs = given(name, 4, steps, n)[1]
        net(*inputs)
        counts.append(dispatched(net, *inputs))
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as seen:
            net(*inputs)
        events.append(sum(e.name.startswith("aten::") for e in seen.events() or ()))
    assert counts[1] < 2.5 * counts[0] and events[1] == events[0], (counts, events)


@pytest.mark.parametrize("n", [2, 12])
def test_the_printed_source_runs(n: int) -> None:
    """More steps than one chunk, with everything that the choice of chunks reads."""
    program, inputs = given("own", 2, 70, n)
    net = linrec.compile(program)
    want, space = net(*inputs), {"__name__": "printed"}
    exec(net.source(), space)
    assert linrec.report(net).recurrences[0].form == "associative"
    have = space["forward"]({}, *inputs)  # type: ignore[operator]
    torch.testing.assert_close(have, want, rtol=1e-4, atol=1e-5)
