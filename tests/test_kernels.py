"""The time-invariant kernels against a loop in double precision, for values and gradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from linrec.kernels import lti


def loop(w: Tensor, a: Tensor, g: Tensor, c: Tensor, d: Tensor, start: Tensor | None = None) -> Tensor:
    """y[t] = C s[t-1] + D w[t], s[t] = A s[t-1] + G w[t]."""
    b, steps, groups, _ = w.shape
    s = torch.zeros(b, groups, a.shape[1], dtype=w.dtype) if start is None else start
    out = []
    for t in range(steps):
        out.append(torch.einsum("gqn,bgn->bgq", c, s) + torch.einsum("gqp,bgp->bgq", d, w[:, t]))
        s = torch.einsum("gnm,bgm->bgn", a, s) + torch.einsum("gnp,bgp->bgn", g, w[:, t])
    return torch.stack(out, 1)


def system(groups: int, n: int, p: int, q: int, steps: int, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    torch.manual_seed(n + steps)
    scale = 0.6 / n**0.5
    shapes = [(2, steps, groups, p), (groups, n, n), (groups, n, p), (groups, q, n), (groups, q, p)]
    made = [torch.randn(s, dtype=dtype) for s in shapes]
    made[1] = made[1] * scale
    return [m.requires_grad_() for m in made]


SHAPES = [(1, 1, 1, 1), (3, 1, 1, 1), (1, 4, 1, 4), (1, 4, 2, 1), (2, 3, 2, 3)]


@pytest.mark.parametrize("steps", [1, 2, 3, 29, 64, 65, 131])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_convolution_and_chunked(shape: tuple[int, int, int, int], steps: int, dtype: torch.dtype) -> None:
    w, a, g, c, d = system(*shape, steps, dtype)
    want = loop(w, a, g, c, d)
    response = lti.lti_impulse(a, g, c, d, steps, False)
    forms = {
        "convolution": lti.lti_convolution(w, response, lti.lti_spectrum(response, steps), a, g, c, d, False),
        "chunked": lti.lti_chunked(w, a, g, c, d, False, chunk=16),
    }
    probe = torch.randn_like(want)
    wanted = torch.autograd.grad((want * probe).sum().abs(), (w, a, g, c, d), retain_graph=True, allow_unused=True)
    for have in forms.values():
        torch.testing.assert_close(have, want, rtol=1e-11, atol=1e-11)
        grads = torch.autograd.grad((have * probe).sum().abs(), (w, a, g, c, d), retain_graph=True, allow_unused=True)
        for one, other in zip(grads, wanted, strict=True):
            one, other = (torch.zeros_like(w[:0]).sum() if x is None else x for x in (one, other))
            torch.testing.assert_close(one.abs().sum(), other.abs().sum(), rtol=1e-9, atol=1e-9)
            if one.shape == other.shape:
                torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-9)
    final = lti.lti_final(w, lti.lti_reversed(response))
    torch.testing.assert_close(final[:, 0], want[:, -1], rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("final", [False, True])
@pytest.mark.parametrize("constant", [False, True])
def test_free_response(final: bool, constant: bool) -> None:
    _, a, _, c, _ = system(2, 3, 1, 2, 17)
    start = torch.randn(2, 2, 3, dtype=torch.float64)
    drive = torch.randn(1, 2, 3, dtype=torch.float64) if constant else None
    eye = torch.eye(3, dtype=torch.float64).expand(2, 3, 3)
    ones = torch.zeros(2, 17, 2, 3, dtype=torch.float64) if drive is None else drive.unsqueeze(1).expand(2, 17, 2, 3)
    want = loop(ones, a, eye, c, torch.zeros(2, 2, 3, dtype=torch.float64), start)
    have = lti.lti_free(start, a, c, drive, None, 17, final)
    torch.testing.assert_close(have, want[:, -1:] if final else want, rtol=1e-11, atol=1e-11)


def test_second_order() -> None:
    w, a, g, c, d = (x.detach()[:1] if i == 0 else x.detach() for i, x in enumerate(system(1, 2, 1, 1, 5)))

    def run(w: Tensor, a: Tensor) -> Tensor:
        return lti.lti_chunked(w, a, g, c, d, False, chunk=2)

    torch.autograd.gradcheck(run, (w.requires_grad_(), a.requires_grad_()), check_forward_ad=True)
    torch.autograd.gradgradcheck(run, (w, a))


@pytest.mark.parametrize("n", [1, 2, 7, 17, 97, 127, 1567, 4099, 65537])
def test_smooth_lengths(n: int) -> None:
    size = lti.smooth(n)
    assert n <= size <= 2 * n
    for prime in (2, 3, 5):
        while size % prime == 0:
            size //= prime
    assert size == 1


class TestTame:
    """When an FFT would be inexact, the convolution goes chunk by chunk."""

    def parts(self, w: Tensor) -> tuple[Tensor, Tensor]:
        _, a, g, c, d = (x.detach().float() for x in system(1, 2, 1, 2, w.shape[1]))
        response = lti.lti_impulse(a, g, c, d, w.shape[1], False)
        have = lti.lti_convolution(w, response, lti.lti_spectrum(response, w.shape[1]), a, g, c, d, False)
        return have, loop(w.double(), a.double(), g.double(), c.double(), d.double())

    def test_quiet_part_beside_a_burst(self) -> None:
        w = torch.randn(2, 512, 1, 1)
        w[:, 256:] *= 1e6
        have, want = self.parts(w)
        scale = want[:, :256].abs().max()
        assert ((have - want)[:, :256].abs().max() / scale) < 1e-5

    def test_not_a_number_spreads_forward_only(self) -> None:
        w = torch.randn(2, 512, 1, 1)
        w[:, 300] = torch.nan
        have, _ = self.parts(w)
        assert torch.isfinite(have[:, :300]).all()
        assert torch.isnan(have[:, 300]).any()


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_the_convolution_goes_block_by_block(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of the batch and of the groups; first and second derivatives, mixed real and complex."""
    for cached in (1, 300, 1500):
        monkeypatch.setattr(lti, "_CACHED", cached)
        w, a, g, c, d = system(3, 2, 2, 2, 33, dtype)
        response = lti.lti_impulse(a, g, c, d, 33, False).detach().requires_grad_()
        spectrum = lti.lti_spectrum(response, 33)
        for drive in (w, w.detach().real.clone().requires_grad_()):
            want = lti._convolved(drive, response, spectrum)
            have = lti.lti_convolution(drive, response, spectrum, a, g, c, d, False)
            torch.testing.assert_close(have, want, rtol=1e-12, atol=1e-12)
            probe = torch.randn_like(want)
            for one, other in zip(
                torch.autograd.grad(have, (drive, response), probe, retain_graph=True),
                torch.autograd.grad(want, (drive, response), probe, retain_graph=True),
                strict=True,
            ):
                torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-11)
    w, a, g, c, d = (x.detach() for x in system(1, 2, 1, 2, 4))
    k = lti.lti_impulse(a, g, c, d, 4, False).requires_grad_()

    def run(w: Tensor, k: Tensor) -> Tensor:
        return lti.lti_convolution(w, k, lti.lti_spectrum(k, 4), a, g, c, d, False)

    torch.autograd.gradgradcheck(run, (w.requires_grad_(), k))
    mine = torch.func.vmap(lti._convolved, (0, None, None))(torch.stack([w] * 2), k, lti.lti_spectrum(k, 4))
    torch.testing.assert_close(mine[1], run(w, k))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_single(dtype: torch.dtype) -> None:
    w, a, g, c, d = (x.detach().to(dtype) for x in system(2, 3, 1, 2, 200))
    want = loop(*(x.double() for x in (w, a, g, c, d)))
    response = lti.lti_impulse(a, g, c, d, 200, False)
    spectrum = lti.lti_spectrum(response, 200)
    final = lti.lti_final(w, lti.lti_reversed(response))
    for have in (lti.lti_convolution(w, response, spectrum, a, g, c, d, False), lti.lti_chunked(w, a, g, c, d, False)):
        assert have.dtype == dtype
        assert (have.double() - want).abs().max() / want.abs().max() < 1e-2
    assert final.dtype == dtype and (final[:, 0].double() - want[:, -1]).abs().max() / want.abs().max() < 1e-2


@pytest.mark.parametrize("count", [1, 2, 3, 29, 64, 65])
def test_two_level_responses(count: int) -> None:
    _, a, g, c, d = (x.detach() for x in system(2, 3, 2, 2, count))
    want = [d, *(c @ torch.linalg.matrix_power(a, k) @ g for k in range(count - 1))]
    torch.testing.assert_close(lti.lti_impulse(a, g, c, d, count, False), torch.stack(want), rtol=1e-11, atol=1e-12)
    read = lti.lti_read(lti.lti_states(a, g, count), c, d)
    torch.testing.assert_close(read, torch.stack(want), rtol=1e-11, atol=1e-12)
