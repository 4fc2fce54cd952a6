"""Scans over (max, +), (min, +) and (logsumexp, +), and the local derivatives of their operators.

The scans have no gradient of their own: that is an ordinary (+, x) recurrence of local derivatives at the states
that they found (linrec/linear/tropical.py), exact where several paths tie.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from linrec.kernels.scan import Apply, scan, scan_matrices, shortest
from linrec.linear.cost import Machine

_PASSES = 8  # elementwise operations of a product and a sum
_RATES = Machine()
_LAUNCH, _RATE = _RATES.launch, _RATES.vector / _PASSES
_AT_ONCE = 1 << 20  # numbers of an intermediate
_TOTALS: dict[str, Callable[[Tensor, int], Tensor]] = {
    "max-plus": torch.amax, "min-plus": torch.amin, "log-sum-exp": torch.logsumexp,
}  # fmt: skip
_PLUS: dict[str, tuple[Apply, float]] = {
    "max-plus": (torch.maximum, float("-inf")),
    "min-plus": (torch.minimum, float("inf")),
    "log-sum-exp": (torch.logaddexp, float("-inf")),
}


def semiring_scan(name: str, a: Tensor, b: Tensor, start: Tensor) -> Tensor:
    """All states of s[k] = a[k] + s[k-1] (plus) b[k], elementwise: (T or 1, e or 1s), (T, e), (e) -> (T, e)."""
    plus, zero = _PLUS[name]
    a, b, start = a.detach().expand(b.shape[0], *a.shape[1:]), b.detach(), start.detach()
    times = _product(a, zero)
    return scan(a, b, start, times, lambda x, s, added: plus(times(x, s), added))


def semiring_scan_dense(name: str, a: Tensor, b: Tensor, start: Tensor) -> Tensor:
    """The same with matrices: (T, e or 1s, n, n), (T, e, n), (e, n) -> (T, e, n); O(T n^3) operations."""
    plus, zero = _PLUS[name]
    times = _product(a, zero)

    def apply(x: Tensor, s: Tensor) -> Tensor:
        # sum over j of x[i, j] + s[j, k]: all at once, or by n calls that keep the memory at that of the result
        if x.numel() * s.shape[-1] <= _AT_ONCE:
            return _TOTALS[name](times(x.unsqueeze(-1), s.unsqueeze(-3)), -2)
        total = times(x[..., :, :1], s[..., :1, :])
        for j in range(1, x.shape[-1]):
            total = plus(total, times(x[..., :, j : j + 1], s[..., j : j + 1, :]))
        return total

    a, b, start = a.detach(), b.detach(), start.detach()
    n = b.shape[-1]
    work = n * b[0].numel() / _RATE
    short = shortest(4 * _LAUNCH + work, n * a[0].numel() / _RATE + 2 * work, 5 * _LAUNCH)
    return scan_matrices(a, b, start, lambda x, s, added: plus(apply(x, s), added), zero, short)


def _product(a: Tensor, zero: float) -> Apply:
    """The product with these coefficients, and with products of them."""
    is_known = not torch._C._functorch.is_functorch_wrapped_tensor(a) and not torch.compiler.is_compiling()
    if is_known and bool(torch.isfinite(a).all()):
        return torch.add
    # zero absorbs, infinities of the other sign included
    return lambda x, s: torch.where(x == zero, zero, x + s)


def semiring_tangent(x: Tensor) -> Tensor:
    """Zero, with the gradient of x."""
    return torch.where(torch.isfinite(x), x - x.detach(), torch.zeros_like(x))


def semiring_weight(kind: str, a: Tensor, b: Tensor) -> Tensor:
    """The derivative of `kind`(a, b) by a: as torch has it, halves where two are equal."""
    if kind == "logaddexp":
        return torch.sigmoid(a - b)
    first = a > b if kind == "maximum" else a < b
    return (first + 0.5 * (a == b)).to(torch.result_type(a, b))


def semiring_bound(kind: str, x: Tensor, bound: Tensor | float) -> Tensor:
    """The derivative of a bounded x by x: the bound wins `relu` where they are equal, and loses elsewhere."""
    passed = x > bound if kind == "relu" else x >= bound if kind == "low" else x <= bound
    return passed.to(x.dtype)


def semiring_share(kind: str, x: Tensor, dims: Sequence[int]) -> Tensor:
    """The derivative of a reduction by each of its elements: those that tie share for `amax` and `amin`."""
    axes = list(dims)
    if kind == "logsumexp":
        # as quotients they add to one however large x is; exp(x - logsumexp(x)) loses the digits of that sum
        most = torch.amax(x.detach(), axes, keepdim=True)
        each = torch.exp(x - torch.where(torch.isfinite(most), most, 0.0))
        return each / each.sum(axes, keepdim=True)
    best = torch.amax(x, axes, keepdim=True) if kind == "amax" else torch.amin(x, axes, keepdim=True)
    equal = (x == best).to(x.dtype)
    return equal / equal.sum(axes, keepdim=True)


def semiring_choice(kind: str, x: Tensor, dim: int) -> Tensor:
    """The derivative of `max` or `min` along an axis: one where its index points."""
    index = (torch.max if kind == "max" else torch.min)(x, dim, keepdim=True).indices
    return torch.zeros_like(x).scatter(dim, index, 1.0)
