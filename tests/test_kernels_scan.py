"""The diagonal scan against a loop in double precision; every transform of torch on the compiled path."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

from linrec import native
from linrec.kernels import compiled, scan

BOTH = pytest.mark.parametrize("path", ["compiled", "plain"], indirect=True)


def loop(a: Tensor, b: Tensor, start: Tensor) -> Tensor:
    s, out = start.expand(b.shape[1:]), []
    for k in range(b.shape[0]):
        s = a[k if a.shape[0] > 1 else 0] * s + b[k]
        out.append(s)
    return torch.stack(out)


def near(have: Tensor, want: Tensor, tolerance: float) -> None:
    scale = want.abs().max().item() + 1e-30
    assert have.shape == want.shape and have.dtype == want.dtype
    assert ((have - want).abs().max().item() / scale) <= tolerance


def parts(steps: int, sizes: tuple[int, ...], dtype: torch.dtype, decay: str = "usual") -> list[Tensor]:
    generator = torch.Generator().manual_seed(steps)
    a = torch.rand(steps, *sizes, generator=generator).to(dtype)
    if dtype.is_complex:
        a = a * torch.exp(2j * torch.rand(steps, *sizes, generator=generator)).to(dtype)
    if decay != "usual":
        a = torch.where(torch.rand(steps, *sizes, generator=generator) < 0.3, float(decay), a)
    b = torch.randn(steps, *sizes, generator=generator, dtype=torch.complex128 if dtype.is_complex else torch.float64)
    return [x.to(dtype).requires_grad_() for x in (a, b, torch.randn(sizes, generator=generator))]


def check(
    found: Callable[..., Tensor], inputs: list[Tensor], tolerance: float, loop: Callable[..., Tensor] = loop
) -> None:
    """Values and gradients of `found` are those of the loop in double precision."""
    wide = [x.detach().to(torch.complex128 if x.is_complex() else torch.float64).requires_grad_() for x in inputs]
    want, have = loop(*wide), found(*inputs)
    near(have, want.to(have.dtype), tolerance)
    probe = torch.randn(want.shape, generator=torch.Generator().manual_seed(1)).to(want.dtype)
    wanted = torch.autograd.grad(want, wide, probe)
    given = torch.autograd.grad(have, inputs, probe.to(have.dtype))
    for one, other in zip(given, wanted, strict=True):
        near(one, other.to(one.dtype), tolerance)


@BOTH
@pytest.mark.parametrize("steps", [1, 2, 3, 29, 64, 257, 1000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex64, torch.complex128])
def test_values_and_gradients(path: str, steps: int, dtype: torch.dtype) -> None:
    tolerance = 2e-5 if dtype in (torch.float32, torch.complex64) else 1e-13
    check(scan.scan_diagonal, parts(steps, (3, 5), dtype), tolerance)


@BOTH
@pytest.mark.parametrize("decay", ["0", "1", "1e-8", "-1"])
def test_extreme_decays(path: str, decay: str) -> None:
    check(scan.scan_diagonal, parts(257, (4, 17), torch.float64, decay), 1e-12)


@BOTH
@pytest.mark.parametrize("shape", [(1, 7), (300, 1), (1, 1)])
def test_broadcast_coefficients(path: str, shape: tuple[int, int]) -> None:
    _, b, start = parts(300, (4, 7), torch.float64)
    a = torch.rand(shape[0], 1, shape[1], dtype=torch.float64).requires_grad_()
    check(scan.scan_diagonal, [a, b, start], 1e-12)
    check(scan.scan_diagonal, [a, b, start.detach()[:1, :1].clone().requires_grad_()], 1e-12)


@BOTH
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_few_channels_and_many_steps(path: str, channels: int, dtype: torch.dtype) -> None:
    """Time is cut into runs; the number of steps is no multiple of them."""
    inputs = parts(16_411, (channels,), dtype)
    check(scan.scan_diagonal, inputs, 1e-11)


@BOTH
def test_layouts(path: str) -> None:
    """Batch-first views, reversed time, strided channels, conjugate and negative views, expanded drives."""
    a, b, start = (x.detach() for x in parts(70, (3, 10), torch.complex128))
    want = loop(a, b, start)
    batch_first = [x.transpose(0, 1).contiguous().transpose(0, 1) for x in (a, b)]
    near(scan.scan_diagonal(batch_first[0], batch_first[1], start), want, 1e-13)
    near(scan.scan_diagonal(a.conj(), b.conj(), start.conj()), loop(a.conj(), b.conj(), start.conj()), 1e-13)
    near(scan.scan_diagonal(a.conj().imag, b.conj().imag, start.imag), loop(-a.imag, -b.imag, start.imag), 1e-13)
    wide = torch.stack([a.real, b.real], -1).flatten(-2)
    near(scan.scan_diagonal(wide[..., ::2], wide[..., 1::2], start.real), loop(a.real, b.real, start.real), 1e-13)
    flat = b[:, :1].real.expand(-1, 3, -1)
    near(scan.scan_diagonal(a.real.flip(0), flat, start.real), loop(a.real.flip(0), flat, start.real), 1e-13)
    leaf = b.clone().requires_grad_()
    scan.scan_diagonal(a, leaf, start).abs().sum().backward()  # type: ignore[no-untyped-call]
    twin = b.clone().requires_grad_()
    loop(a, twin, start).abs().sum().backward()  # type: ignore[no-untyped-call]
    near(leaf.grad, twin.grad, 1e-12)  # type: ignore[arg-type]


def test_the_result_lies_as_the_drive_does() -> None:
    a, b, start = (x.detach() for x in parts(70, (3, 10), torch.float32))
    b = b.transpose(0, 1).contiguous().transpose(0, 1)
    assert scan.scan_diagonal(a, b, start).transpose(0, 1).is_contiguous() or native.kernels() is None


@BOTH
def test_half_precision_keeps_single_precision_states(path: str) -> None:
    a = torch.full((4000, 4), 0.999, dtype=torch.bfloat16)
    b = torch.full((4000, 4), 1.0, dtype=torch.bfloat16)
    start = torch.zeros(4, dtype=torch.bfloat16)
    have = scan.scan_diagonal(a, b, start)
    assert have.dtype == torch.bfloat16
    want = loop(a.double(), b.double(), start.double())
    assert ((have.double() - want).abs() / want).max() < 5e-3  # bfloat16 states would stop at 1 / 2**-8


class TestTransforms:
    """Compiled kernels step aside for what they do not know of; other scans derive from this one."""

    run = staticmethod(scan.scan_diagonal)
    loop = staticmethod(loop)

    def inputs(self) -> list[Tensor]:
        return parts(9, (2, 3), torch.float64)

    def test_second_order(self) -> None:
        a, b, start = (x.detach()[:5].requires_grad_() if x.dim() == 3 else x for x in self.inputs())
        torch.autograd.gradcheck(self.run, (a, b, start))
        torch.autograd.gradgradcheck(self.run, (a, b, start))
        one = torch.rand(1, 1, 3, dtype=torch.float64, requires_grad=True)
        torch.autograd.gradgradcheck(self.run, (one, b, start))

    def test_forward_mode_and_func(self) -> None:
        inputs = tuple(x.detach() for x in self.inputs())
        tangents = tuple(torch.randn_like(x) for x in inputs)
        for one, other in zip(
            torch.func.jvp(self.run, inputs, tangents), torch.func.jvp(self.loop, inputs, tangents), strict=True
        ):
            near(one, other, 1e-13)
        with torch.autograd.forward_ad.dual_level():
            dual = torch.autograd.forward_ad.make_dual(inputs[0], tangents[0])  # type: ignore[no-untyped-call]
            tangent = torch.autograd.forward_ad.unpack_dual(self.run(dual, *inputs[1:])).tangent  # type: ignore[no-untyped-call]
        near(tangent, torch.func.jvp(lambda a: self.loop(a, *inputs[1:]), inputs[:1], tangents[:1])[1], 1e-13)

        def total(f: Callable[..., Tensor]) -> Callable[..., Tensor]:
            return lambda *x: f(*x).square().sum()

        for one, other in zip(
            torch.func.grad(total(self.run), (0, 1, 2))(*inputs),
            torch.func.grad(total(self.loop), (0, 1, 2))(*inputs),
            strict=True,
        ):
            near(one, other, 1e-13)
        for i in range(3):
            near(
                torch.func.hessian(total(self.run), i)(*inputs),
                torch.func.hessian(total(self.loop), i)(*inputs),
                1e-12,
            )

    def test_vmap(self) -> None:
        inputs = [torch.stack([x.detach()] * 4) * torch.arange(1, 5).view(-1, *[1] * x.dim()) for x in self.inputs()]
        near(torch.func.vmap(self.run)(*inputs), torch.func.vmap(self.loop)(*inputs), 1e-13)
        a, b, _ = self.inputs()
        have = torch.func.vmap(lambda s: self.run(a.detach(), b.detach(), s))(inputs[2])
        near(have, torch.stack([self.loop(a, b, s) for s in inputs[2]]).detach(), 1e-13)

    def test_batched_gradients(self) -> None:
        a, b, start = self.inputs()
        probes = torch.randn(4, *b.shape, dtype=torch.float64)
        have = torch.autograd.grad(self.run(a, b, start), (a, b, start), probes, is_grads_batched=True)
        want = torch.autograd.grad(self.loop(a, b, start), (a, b, start), probes, is_grads_batched=True)
        for one, other in zip(have, want, strict=True):
            near(one, other, 1e-13)

    def test_tracing_and_fake_tensors(self) -> None:
        inputs = [x.detach() for x in self.inputs()]
        traced = make_fx(self.run)(*inputs)
        other = [x * 0.5 for x in inputs]
        near(traced(*other), self.loop(*other), 1e-13)
        with FakeTensorMode() as mode:
            fake = [mode.from_tensor(x) for x in inputs]
            assert self.run(*fake).shape == inputs[1].shape
        with pytest.warns(Warning):
            jitted = torch.jit.trace(self.run, tuple(inputs))  # type: ignore[no-untyped-call]
        near(jitted(*other), self.loop(*other), 1e-13)

    def test_export(self) -> None:
        run = self.run

        class Scan(torch.nn.Module):
            def forward(self, a: Tensor, b: Tensor, start: Tensor) -> Tensor:
                return run(a, b, start)

        inputs = [x.detach() for x in self.inputs()]
        other = tuple(x * 0.5 for x in inputs)
        near(torch.export.export(Scan(), tuple(inputs)).module()(*other), self.loop(*other), 1e-13)

    def test_torch_compile(self) -> None:
        inputs = self.inputs()
        run = torch.compile(self.run, backend="aot_eager", fullgraph=True)
        have = run(*inputs)
        near(have, self.loop(*inputs), 1e-13)
        for one, other in zip(
            torch.autograd.grad(have.square().sum(), inputs),
            torch.autograd.grad(self.loop(*inputs).square().sum(), inputs),
            strict=True,
        ):
            near(one, other, 1e-13)

    def test_checkpointing_and_saved_tensor_hooks(self) -> None:
        inputs = self.inputs()
        want = torch.autograd.grad(self.loop(*inputs).square().sum(), inputs)
        run = torch.utils.checkpoint.checkpoint(self.run, *inputs, use_reentrant=False)
        for one, other in zip(torch.autograd.grad(run.square().sum(), inputs), want, strict=True):
            near(one, other, 1e-13)
        with torch.autograd.graph.saved_tensors_hooks(lambda x: x.numpy(), torch.from_numpy):
            have = self.run(*inputs)
        near(torch.autograd.grad(have.square().sum(), inputs)[0], want[0], 1e-13)


def test_the_compiled_path_is_the_one_that_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    if native.kernels() is None:
        pytest.skip("built without compiled kernels")
    seen: list[str] = []
    monkeypatch.setattr(compiled, "call", lambda kernel, *rest: seen.append(kernel))
    a, b, start = parts(40, (3, 5), torch.float32)
    scan.scan_diagonal(a, b, start).sum().backward()  # type: ignore[no-untyped-call]
    assert seen == ["scan_forward", "scan_backward"]
