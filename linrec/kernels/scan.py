"""Scans over time-varying steps, in plain operators: s[k] = a[k] s[k-1] + b[k] for all k at once.

Two levels: T steps are cut into about sqrt(T) chunks, all chunks walk their steps side by side, then the carries
walk the chunks. 2 sqrt(T) dependent steps, three passes over the data, products of coefficients only within a
chunk and never a quotient, so nothing under- or overflows that the loop itself would not.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

Apply = Callable[[Tensor, Tensor], Tensor]
_SHORT = 16  # from here on two levels take fewer operators than the loop


def scan_diagonal(a: Tensor, b: Tensor, start: Tensor) -> Tensor:  # (T, e or 1s), (T, e), (e) -> (T, e)
    """All states of s[k] = a[k] * s[k-1] + b[k]."""
    return scan(a, b, start, _times)


def scan_dense(a: Tensor, b: Tensor, start: Tensor) -> Tensor:  # (T, e or 1s, n, n), (T, e, n), (e, n) -> (T, e, n)
    """All states of s[k] = A[k] s[k-1] + b[k]; O(T n^3) operations, the order of the products kept."""
    return scan(a, b.unsqueeze(-1), start.unsqueeze(-1), _matmul).squeeze(-1)


def _matmul(a: Tensor, s: Tensor) -> Tensor:
    return a @ s


def _times(a: Tensor, s: Tensor) -> Tensor:
    return a * s


def scan(a: Tensor, b: Tensor, start: Tensor, apply: Apply, plus: Apply = torch.add) -> Tensor:
    """All states of s[k] = apply(a[k], s[k-1]) plus b[k]; `apply` also composes two coefficients."""
    steps = b.shape[0]
    if steps <= _SHORT:
        return _walk(a, b, start, apply, plus)
    size = math.isqrt(steps - 1) + 1
    count = steps // size
    whole = count * size
    # a full part of `count` chunks and a tail shorter than a chunk
    chunked_a = a[:whole].reshape(count, size, *a.shape[1:])
    chunked_b = b[:whole].reshape(count, size, *b.shape[1:])
    local, product = [chunked_b[:, 0]], [chunked_a[:, 0]]
    for j in range(1, size):
        step = chunked_a[:, j]
        local.append(plus(apply(step, local[-1]), chunked_b[:, j]))
        product.append(apply(step, product[-1]))
    carries = scan(product[-1], local[-1], start, apply, plus)  # the state each chunk ends in
    before = torch.cat([start.expand_as(carries[0]).unsqueeze(0), carries[:-1]])
    states = plus(torch.stack(local, 1), apply(torch.stack(product, 1), before.unsqueeze(1)))
    states = states.reshape(whole, *states.shape[2:])
    if whole == steps:
        return states
    return torch.cat([states, _walk(a[whole:], b[whole:], states[-1], apply, plus)])


def _walk(a: Tensor, b: Tensor, start: Tensor, apply: Apply, plus: Apply) -> Tensor:
    state, states = start, []
    for step_a, step_b in zip(a.unbind(0), b.unbind(0), strict=True):
        state = plus(apply(step_a, state), step_b)
        states.append(state)
    return torch.stack(states)
