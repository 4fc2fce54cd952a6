"""Impulse responses of diagonal transitions, K[k] = C diag(a)^k G: powers of numbers, and one matrix product.

With k = i L + j and L about the square root of the length the product splits into C a^(i L), for all i, and a^j G, for
all j: a Vandermonde matrix of two levels, of which O(sqrt(T)) powers are made instead of T.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from linrec.kernels import compiled

_CACHED = 1 << 18  # powers that stay in cache


def responses(a: Tensor, g: Tensor, c: Tensor, count: int, real: bool, kept: torch.dtype) -> Tensor:
    """C A^k G, or its real part, for k < count: (g,n), (g,n,p), (g,q,n) -> (g,q,p,count), cast to `kept`.

    O(sqrt(count) g n (p + q)) powers and O(count g n p q) operations, in double precision forward.
    """
    if count == 0:
        return torch.zeros(len(g), c.shape[1], g.shape[2], 0, dtype=kept, device=g.device)
    if not compiled.is_eager(a, g, c):
        return two_levels(a, g, c, count, real).to(kept)
    if torch.is_grad_enabled() and (a.requires_grad or g.requires_grad or c.requires_grad):
        return _Responses.apply(a, g, c, count, real, kept)  # type: ignore[no-any-return, no-untyped-call]
    return _blocked(a, g, c, count, real, kept)


def _blocks(n: int, columns: int, groups: int) -> Iterator[slice]:
    """Groups whose powers stay in cache."""
    some = max(_CACHED // (n * columns), 1)
    return (slice(at, at + some) for at in range(0, groups, some))


def _blocked(a: Tensor, g: Tensor, c: Tensor, count: int, real: bool, kept: torch.dtype) -> Tensor:
    """Some groups at a time."""
    (groups, q, n), p = c.shape, g.shape[2]
    found = compiled.fresh(torch.empty(groups, q, p, count, dtype=kept, device=a.device))
    for at in _blocks(n, q * levels(count)[1] + p * levels(count)[0], groups):
        found[at] = two_levels(a[at], g[at], c[at], count, real)
    return found


def two_levels(a: Tensor, g: Tensor, c: Tensor, count: int, real: bool) -> Tensor:
    """In operators. Reals are one product of reals: Re(L R) = [Re L, -Im L] [Re R; Im R]."""
    wide = torch.complex128 if a.is_complex() else torch.float64
    a, g, c = a.to(wide), g.to(wide), c.to(wide)
    groups, q, n = c.shape
    p = g.shape[2]
    fine, coarse = levels(count)
    columns = doubled(a.reshape(groups, n, 1, 1), g.unsqueeze(2), fine, 2).reshape(groups, n, fine * p)
    rows = doubled((a**fine).reshape(groups, 1, 1, n), c.unsqueeze(1), coarse, 1).reshape(groups, coarse * q, n)
    if real and a.is_complex():
        rows, columns = torch.cat([rows.real, -rows.imag], -1), torch.cat([columns.real, columns.imag], 1)
    found = (rows @ columns).reshape(groups, coarse, q, fine, p).permute(0, 2, 4, 1, 3)
    return found.reshape(groups, q, p, coarse * fine)[..., :count]


def levels(count: int) -> tuple[int, int]:
    """The length of the fine level and that of the coarse one: together at least `count`."""
    fine = math.isqrt(count - 1) + 1
    return fine, -(-count // fine)


def doubled(a: Tensor, x: Tensor, count: int, axis: int) -> Tensor:
    """x, a x, a^2 x, ..., elementwise along an axis of size one."""
    while (m := x.shape[axis]) < count:
        x = torch.cat([x, x.narrow(axis, 0, min(m, count - m)) * a], axis)
        a = a * a
    return x


class _Responses(torch.autograd.Function):
    """The same with its first derivatives; a derivative of these is taken through operators."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, g: Tensor, c: Tensor, count: int, real: bool, kept: torch.dtype) -> Tensor:
        ctx.save_for_backward(a, g, c)
        ctx.how = count, real, kept
        return _blocked(a, g, c, count, real, kept)

    @staticmethod
    def backward(ctx: Any, dk: Tensor) -> tuple[Any, ...]:
        a, g, c = ctx.saved_tensors
        count, real, kept = ctx.how
        if not torch.is_grad_enabled() and compiled.is_eager(a, g, c, dk):
            columns = c.shape[1] * levels(count)[1] + g.shape[2] * levels(count)[0]
            parts = [_gradients(a[i], g[i], c[i], dk[i]) for i in _blocks(a.shape[1], columns, len(a))]
            return *(torch.cat(each) for each in zip(*parts, strict=True)), None, None, None
        with torch.enable_grad():
            a, g, c = compiled.apart(a, g, c)
            wanted = [x for x, needed in zip((a, g, c), ctx.needs_input_grad, strict=False) if needed]
            y = two_levels(a, g, c, count, real).to(kept)
            found = iter(torch.autograd.grad(y, wanted, dk, create_graph=True, materialize_grads=True))
        return *(next(found) if needed else None for needed in ctx.needs_input_grad[:3]), None, None, None


def _gradients(a: Tensor, g: Tensor, c: Tensor, dk: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Those of a, G and C: with K = L R, L[i] = C b^i, b = a^fine and R[j] = a^j G,

    dL = dK R*,  dR = L* dK,  dG = sum_j conj(a^j) dR[j],  dC = sum_i conj(b^i) dL[i],
    da = sum_j j conj(a^(j-1) G) dR[j] + conj(fine a^(fine-1)) sum_i i conj(b^(i-1) C) dL[i].
    """
    groups, q, n = c.shape
    p, count = g.shape[2], dk.shape[-1]
    fine, coarse = levels(count)
    wide = torch.complex128 if a.is_complex() else torch.float64
    a64 = a.to(wide)
    one = torch.ones_like(a64).unsqueeze(-1)
    low = doubled(a64.unsqueeze(-1), one, fine, 2)  # (g, n, fine)
    turn = a64**fine
    high = doubled(turn.unsqueeze(-1), one, coarse, 2)  # (g, n, coarse)
    slope = fine * (low[..., -1] if fine > 1 else torch.ones_like(a64))
    low, high, slope = low.to(a.dtype).conj(), high.to(a.dtype).conj(), slope.to(a.dtype).conj()
    gc, cc = g.conj(), c.conj()
    dk = torch.nn.functional.pad(dk, (0, coarse * fine - count)).reshape(groups, q, p, coarse, fine)
    dk = dk.permute(0, 3, 1, 4, 2).reshape(groups, coarse * q, fine * p)
    right = torch.einsum("gnj,gnp->gnjp", low, gc).reshape(groups, n, fine * p)
    left = torch.einsum("gni,gqn->gniq", high, cc).reshape(groups, n, coarse * q)
    d_left = _mixed(dk, right.mT).reshape(groups, coarse, q, n)
    d_right = _mixed(dk.mT, left.mT).reshape(groups, fine, p, n)
    along, across = torch.einsum("gnp,gjpn->gnj", gc, d_right), torch.einsum("gqn,giqn->gni", cc, d_left)
    da = (_slopes(low) * along).sum(-1) + slope * (_slopes(high) * across).sum(-1)
    return da, torch.einsum("gnj,gjpn->gnp", low, d_right), torch.einsum("gni,giqn->gqn", high, d_left)


def _slopes(powers: Tensor) -> Tensor:
    """j x^(j-1) of x^j, j < m."""
    order = torch.arange(1, powers.shape[-1], device=powers.device)
    return torch.cat([torch.zeros_like(powers[..., :1]), powers[..., :-1] * order], -1)


def _mixed(real: Tensor, other: Tensor) -> Tensor:
    """A product; of a real and a complex matrix, one product of reals."""
    if real.is_complex() or not other.is_complex():
        return real.to(other.dtype) @ other
    found = real @ torch.cat([other.real, other.imag], -1)
    return torch.complex(*torch.split(found, other.shape[-1], -1))
