"""Scans over time-varying steps: s[k] = a[k] s[k-1] + b[k] for all k at once.

Diagonal steps run compiled where that is safe (linrec/kernels/compiled.py), else in plain operators. These have two
levels: T steps are cut into about sqrt(T) chunks, all chunks walk their steps side by side, then the carries
walk the chunks. 2 sqrt(T) dependent steps, three passes over the data, products of coefficients only within a
chunk and never a quotient, so nothing under- or overflows that the loop itself would not.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from linrec.kernels import compiled, compiled_dense
from linrec.kernels.diagonal import doubled
from linrec.kernels.lti import is_concrete, powers
from linrec.linear.cost import Machine

Apply = Callable[[Tensor, Tensor], Tensor]
Step = Callable[[Tensor, Tensor, Tensor], Tensor]  # a, s, b -> a s + b
_RATES = Machine()  # the shipped ones: a kernel does the same on every machine
_LAUNCH, _PRODUCTS, _LARGE, _CACHE = _RATES.launch, _RATES.small, _RATES.matmul, _RATES.cache
_HANDLED = 100  # times as long an operator takes that a trace, a mode or a transform takes up
_SHORT = 16  # from here on two levels take fewer operators than the loop


def scan_diagonal(a: Tensor, b: Tensor, start: Tensor) -> Tensor:  # (T or 1, e or 1s), (T, e), (e) -> (T, e)
    """All states of s[k] = a[k] * s[k-1] + b[k]; O(T e) operations. Half precision is scanned in single precision."""
    if b.dtype in (torch.float16, torch.bfloat16):
        return scan_diagonal(a.float(), b.float(), start.float()).to(b.dtype)
    if not compiled.is_safe(b, a, start):
        if a.shape[0] == 1:
            return _constant(_widened(a), b, start)
        return scan(a.expand(b.shape[0], *a.shape[1:]), b, start, torch.mul, _multiplied)
    if torch.is_grad_enabled() and (a.requires_grad or b.requires_grad or start.requires_grad):
        return _Compiled.apply(a, b, start)  # type: ignore[no-any-return, no-untyped-call]
    return compiled.forward(a, b, start)


class _Compiled(torch.autograd.Function):
    """The compiled scan with its first derivatives; a derivative of these is taken through operators."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, start: Tensor) -> Tensor:
        h = compiled.forward(a, b, start)
        ctx.save_for_backward(a, h, start)
        return h

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        a, h, start = ctx.saved_tensors
        if not torch.is_grad_enabled() and compiled.is_safe(g, a, h, start):
            return compiled.backward(a, g, h, start)
        # db[k] = g[k] + conj(a[k+1]) db[k+1],  da[k] = db[k] conj(s[k-1]): a scan again, differentiable again
        each = a.expand(g.shape[0], *a.shape[1:])
        after = torch.cat([each[1:], torch.zeros_like(each[:1])]).conj()
        db = scan_diagonal(after.flip(0), g.flip(0), torch.zeros_like(g[0])).flip(0)
        da = db * torch.cat([start.expand_as(h[0]).unsqueeze(0), h[:-1]]).conj()
        return da.sum_to_size(a.shape), db, (a[0].conj() * db[0]).sum_to_size(start.shape)


def _constant(a: Tensor, b: Tensor, start: Tensor) -> Tensor:  # (1, e or 1s), (T, e), (e) -> (T, e)
    # a is in double precision: the powers of one coefficient meet every chunk, so that their errors would not average out
    steps, one = b.shape[0], a[0].to(b.dtype)

    def walk(b: Tensor, start: Tensor) -> Tensor:
        return _walk(one.expand(len(b), *one.shape), b, start, _multiplied)

    if steps <= _SHORT:
        return walk(b, start)
    size = math.isqrt(steps - 1) + 1
    count = steps // size
    whole = count * size
    rows = b[:whole].reshape(count, size, *b.shape[1:])
    local = walk(rows.transpose(0, 1), torch.zeros_like(rows[:, 0]))  # (size, count, e): chunks side by side
    powers = doubled(a, a, size, 0)
    carries = _constant(powers[-1:], local[-1], start)
    before = torch.cat([start.expand_as(carries[0]).unsqueeze(0), carries[:-1]])
    states = _multiplied(powers.to(b.dtype), before.unsqueeze(1), local.transpose(0, 1)).reshape(whole, *b.shape[1:])
    return states if whole == steps else torch.cat([states, walk(b[whole:], states[-1])])


def scan_dense(
    a: Tensor, b: Tensor, start: Tensor
) -> Tensor:  # (T or 1, e or 1s, n, n), (T, e, n), (e, n) -> (T, e, n)
    """All states of s[k] = A[k] s[k-1] + b[k], the order of the products kept.

    O(T e n^2) operations compiled, one walk. In operators O(T n^3), but O(T e n^2) and sqrt(T) n^3 where one A serves
    all steps. Half precision is scanned in single precision.
    """
    if b.dtype in (torch.float16, torch.bfloat16):
        return scan_dense(a.float(), b.float(), start.float()).to(b.dtype)
    return in_columns(a, b, start, _dense)


def _dense(a: Tensor, b: Tensor, start: Tensor) -> Tensor:  # (T or 1, p, n, n), (T, p, n, c), (p, n, c) -> (T, p, n, c)
    if compiled.is_safe(b, a, start):
        if torch.is_grad_enabled() and (a.requires_grad or b.requires_grad or start.requires_grad):
            return _CompiledDense.apply(a, b, start)  # type: ignore[no-any-return, no-untyped-call]
        return compiled_dense.forward(a, b, start)
    if a.shape[0] == 1:
        return _constant_dense(_widened(a[0]), b, start)
    n, launch = b.shape[-2], _LAUNCH if compiled.is_eager(a, b, start) else _HANDLED * _LAUNCH
    work = 2 * n * b[0].numel() / _PRODUCTS
    made = 2 * a[0].numel() * n / _PRODUCTS + 8 * a[0].numel() * a.element_size() / _CACHE
    short = shortest(2 * launch + work, made + 2 * work, 2 * launch)
    return _two_levels(a, b, start, _applied, 0.0, short)


class _CompiledDense(torch.autograd.Function):
    """The compiled walk with its first derivatives; a derivative of these is taken through operators."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, start: Tensor) -> Tensor:
        h = compiled_dense.forward(a, b, start)
        ctx.save_for_backward(a, h, start)
        return h

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:
        a, h, start = ctx.saved_tensors
        # db[k] = g[k] + A[k+1]^H db[k+1],  dA[k] = db[k] s[k-1]^H: a scan again, differentiable again
        if not torch.is_grad_enabled() and compiled.is_safe(g, a, h, start):
            db = compiled_dense.adjoints(a, g, h)
        else:
            each = a.expand(g.shape[0], *a.shape[1:])
            after = torch.cat([each[1:], torch.zeros_like(each[:1])]).mH
            db = _dense(after.flip(0), g.flip(0), torch.zeros_like(g[0])).flip(0)
        da = _outer(db, torch.cat([start.unsqueeze(0), h[:-1]]), a) if ctx.needs_input_grad[0] else None
        return da, db, a[0].mH @ db[0]


def _outer(d: Tensor, s: Tensor, a: Tensor) -> Tensor:  # (T, p, n, c), (T, p, n, c) -> as a: (T or 1, p, n, n)
    """Gradients of transitions: sums of d s^H over columns, and over time where one transition serves all steps."""
    if a.shape[0] == d.shape[0]:
        return d @ s.mH if d.shape[-1] > 1 else d * s.mH
    steps, own, n, columns = d.shape
    rows = [x.permute(1, 2, 0, 3).reshape(own, n, steps * columns) for x in (d, s)]
    return (rows[0] @ rows[1].mH).unsqueeze(0)


def _constant_dense(
    a: Tensor, b: Tensor, start: Tensor
) -> Tensor:  # (g, n, n), (T, g, n, c), (g, n, c) -> (T, g, n, c)
    # as for numbers: chunks side by side as columns of one matrix, powers of A in double precision
    steps, groups, n, count = b.shape
    one = a.to(b.dtype)

    def walk(b: Tensor, start: Tensor) -> Tensor:
        return _walk(one.expand(len(b), *one.shape), b, start, lambda a, s, b: torch.baddbmm(b, a, s))

    # T steps of a walk, or sqrt(T) of them and as many products of matrices in double precision
    step = 2 * _LAUNCH + 2 * groups * n**2 * count / _PRODUCTS
    product = 4 * _LAUNCH + 4 * groups * n**3 / _LARGE
    size = math.isqrt(steps - 1) + 1 if steps > max(_SHORT, (1 + product / step) ** 2) else 0
    power = powers(a, a, size)
    # inf * 0 is nan: what overflows within a chunk would reach states that it does not touch
    if size == 0 or (is_concrete(power) and not bool(torch.isfinite(power[-1].detach().to(b.dtype)).all())):
        return walk(b, start)
    chunks = steps // size
    whole = chunks * size

    def aside(x: Tensor) -> Tensor:  # (chunks, ..., n, c) -> (..., n, chunks c)
        return x.movedim(0, -2).flatten(-2)

    def apart(x: Tensor) -> Tensor:
        return x.unflatten(-1, (chunks, count)).movedim(-2, 0)  # type: ignore[no-any-return, no-untyped-call]

    rows = aside(b[:whole].reshape(chunks, size, groups, n, count))
    local = walk(rows, torch.zeros_like(rows[0]))
    carries = _constant_dense(power[-1], apart(local[-1]), start)
    before = aside(torch.cat([start.unsqueeze(0), carries[:-1]]))
    left = power.to(b.dtype).transpose(0, 1).reshape(groups, size * n, n)
    seen = (left @ before).reshape(groups, size, n, chunks * count).transpose(0, 1)
    states = apart(local + seen).reshape(whole, groups, n, count)
    return states if whole == steps else torch.cat([states, walk(b[whole:], states[-1])])


def _widened(a: Tensor) -> Tensor:
    """In double precision; integers as they are, of which scans are exact."""
    exact = not (a.is_floating_point() or a.is_complex())
    return a if exact else a.to(torch.promote_types(a.dtype, torch.float64))


def scan_matrices(
    a: Tensor, b: Tensor, start: Tensor, step: Step, zero: float, short: float
) -> Tensor:  # (T, e or 1s, n, n), (T, e, n), (e, n) -> (T, e, n)
    """A scan of matrices, walked in one chunk up to `short` steps; `zero` is what adds nothing."""
    return in_columns(a, b, start, lambda a, b, start: _two_levels(a, b, start, step, zero, short))


def in_columns(a: Tensor, b: Tensor, start: Tensor, run: Step) -> Tensor:
    """Elements that share a transition as columns of one matrix, so that it is multiplied once for all of them."""
    lead = len(a.shape) - 3
    apart = [i for i in range(lead) if a.shape[1 + i] != 1]
    alike = [i for i in range(lead) if a.shape[1 + i] == 1]
    order = [*apart, lead, *alike]  # each with its n states, then columns
    own, n = [b.shape[1 + i] for i in apart], b.shape[-1]
    columns = [b.shape[1 + i] for i in alike]
    each, count = math.prod(own), math.prod(columns)
    rows = b.permute(0, *(1 + i for i in order)).reshape(b.shape[0], each, n, count)
    first = start.permute(*order).reshape(each, n, count)
    states = run(a.reshape(a.shape[0], each, n, n), rows, first)
    back = [order.index(i) + 1 for i in range(lead + 1)]
    return states.reshape(b.shape[0], *own, n, *columns).permute(0, *back)


def _two_levels(
    a: Tensor, b: Tensor, start: Tensor, step: Step, zero: float, short: float
) -> Tensor:  # (T, e, n, n), (T, e, n, c), (e, n, c) -> (T, e, n, c)
    steps, n = b.shape[0], a.shape[-1]
    if steps <= short:
        return _walk(a, b, start, step)
    size = math.isqrt(steps - 1) + 1
    count = steps // size
    whole = count * size
    each = a[:whole].reshape(count, size, *a.shape[1:])
    # products and states within a chunk, side by side: [A P | A s + b]
    added = torch.cat([torch.full_like(a[:whole], zero), b[:whole]], -1).reshape(count, size, *a.shape[1:-1], -1)
    both = [torch.cat([a[:whole:size], b[:whole:size]], -1)]
    for now, then in zip(each.unbind(1)[1:], added.unbind(1)[1:], strict=True):
        both.append(step(now, both[-1], then))
    whole_chunks = torch.stack(both, 1)
    product, local = whole_chunks[..., :n], whole_chunks[..., n:]
    carries = _two_levels(product[:, -1], local[:, -1], start, step, zero, short)  # what each chunk ends in
    before = torch.cat([start.unsqueeze(0), carries[:-1]])
    states = step(product, before.unsqueeze(1), local).reshape(whole, *b.shape[1:])
    if whole == steps:
        return states
    return torch.cat([states, _walk(a[whole:], b[whole:], states[-1], step)])


def shortest(walk: float, product: float, launched: float) -> float:
    """The number of steps from which two levels beat a walk.

    Given are seconds a step of a walk, of products, and of the launches alone: T walk > T product + 4 sqrt(T) launched,
    since steps walk chunks for states and for products.
    """
    return max(_SHORT, (4 * launched / (walk - product)) ** 2) if walk > product else math.inf


def _applied(a: Tensor, s: Tensor, b: Tensor) -> Tensor:
    return a @ s + b


def _multiplied(a: Tensor, s: Tensor, b: Tensor) -> Tensor:
    return torch.addcmul(b, a, s)


def scan(a: Tensor, b: Tensor, start: Tensor, apply: Apply, step: Step) -> Tensor:
    """All states of s[k] = step(a[k], s[k-1], b[k]), elementwise, where `apply` composes two coefficients."""
    steps = b.shape[0]
    if steps <= _SHORT:
        return _walk(a, b, start, step)
    size = math.isqrt(steps - 1) + 1
    count = steps // size
    whole = count * size
    # a full part of `count` chunks and a tail shorter than a chunk
    (first_a, *rest_a) = a[:whole].reshape(count, size, *a.shape[1:]).unbind(1)
    (first_b, *rest_b) = b[:whole].reshape(count, size, *b.shape[1:]).unbind(1)
    product, local = [first_a], [first_b]
    for next_a, next_b in zip(rest_a, rest_b, strict=True):
        local.append(step(next_a, local[-1], next_b))
        product.append(apply(next_a, product[-1]))
    carries = scan(product[-1], local[-1], start, apply, step)  # the state each chunk ends in
    before = torch.cat([start.expand_as(carries[0]).unsqueeze(0), carries[:-1]])
    states = step(torch.stack(product, 1), before.unsqueeze(1), torch.stack(local, 1))
    states = states.reshape(whole, *states.shape[2:])
    if whole == steps:
        return states
    return torch.cat([states, _walk(a[whole:], b[whole:], states[-1], step)])


def _walk(a: Tensor, b: Tensor, start: Tensor, step: Step) -> Tensor:
    state, states = start, []
    for next_a, next_b in zip(a.unbind(0), b.unbind(0), strict=True):
        state = step(next_a, state, next_b)
        states.append(state)
    return torch.stack(states)
