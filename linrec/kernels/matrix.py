"""Matrix states: rank-one updates, diagonal decay, states never stored.

    y_i[t] = v_i[t] + w_i[t]^T S[t-1]
    S[t]   = a[t] * S[t-1] + sum_i u_i[t] y_i[t]^T
    o_m[t] = q_m[t]^T S[t], or S[t-1] where its delay is 1

S is (K, V) for every index of the passing axes P. Without w this is the recurrence of linear attention (Katharopoulos
et al., 2020); with w = -b u and u a unit vector the delta rule (Widrow and Hoff, 1960), whose chunks are products of
reflections in the form of Bischof and Van Loan (1987): (I - L) Y = v + W S, with L strictly lower triangular.

Compiled where that is safe, step by step with the state in cache (linrec/native/matrix.h); else chunk by chunk in
plain operators. Decays within a chunk are products of decays, never quotients or exponentials of sums, so zeros,
ones, negative and complex decays are all exact. Cost per chunk of C steps: O(C^2 (K + V) + C K V).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from linrec.kernels import compiled, compiled_matrix
from linrec.kernels.lti import is_concrete
from linrec.kernels.scan import scan_diagonal

_CHUNK = 64


@dataclass(frozen=True)
class Parts:
    """All tensors of a recurrence, axes of size one where they do not vary.

    decay (T, *P, K, V); lefts, inners, queries (T, *P, K); values (T, *P, V); start (*P, K, V).
    """

    decay: Tensor | None
    lefts: Sequence[Tensor]
    inners: Sequence[Tensor | None]
    values: Sequence[Tensor | None]
    queries: Sequence[Tensor]
    delays: Sequence[int]
    start: Tensor

    def given(self) -> list[Tensor]:
        """Every tensor there is, in order."""
        every = (self.decay, *self.lefts, *self.inners, *self.values, *self.queries, self.start)
        return [x for x in every if x is not None]

    def with_given(self, tensors: Sequence[Tensor]) -> Parts:
        """The same recurrence on other tensors."""
        left = iter(tensors)

        def take(old: Sequence[Tensor | None]) -> list[Any]:
            return [None if x is None else next(left) for x in old]

        (decay,) = take([self.decay])
        lefts, inners, values, queries = map(take, (self.lefts, self.inners, self.values, self.queries))
        return Parts(decay, lefts, inners, values, queries, self.delays, next(left))


def matrix_scan(
    steps: int,
    decay: Tensor | None,
    lefts: Sequence[Tensor],
    inners: Sequence[Tensor | None],
    values: Sequence[Tensor | None],
    queries: Sequence[Tensor],
    delays: Sequence[int],
    start: Tensor,
) -> tuple[Tensor, ...]:
    """All reads (T, *P, V) in order, then the last state (*P, K, V)."""
    parts = Parts(decay, lefts, inners, values, queries, delays, start)
    dtype = start.dtype
    if dtype in (torch.float16, torch.bfloat16):
        wide = parts.with_given([x.float() for x in parts.given()])
        return tuple(x.to(dtype) for x in _run(steps, wide))
    return _run(steps, parts)


def _run(steps: int, parts: Parts) -> tuple[Tensor, ...]:
    given = parts.given()
    if not compiled.is_safe(*given) or not compiled_matrix.fits(parts):
        return in_operators(steps, parts)
    if torch.is_grad_enabled() and any(x.requires_grad for x in given):
        return _Compiled.apply(steps, parts, *given)  # type: ignore[no-any-return, no-untyped-call]
    return compiled_matrix.forward(steps, parts, keep=False).results


class _Compiled(torch.autograd.Function):
    """The compiled walk with its first derivatives; a derivative of these is taken through operators."""

    @staticmethod
    def forward(ctx: Any, steps: int, parts: Parts, *given: Tensor) -> tuple[Tensor, ...]:
        done = compiled_matrix.forward(steps, parts.with_given(given), keep=True)
        ctx.steps, ctx.parts, ctx.counts = steps, parts.with_given([given[0].new_empty(0)] * len(given)), len(done.kept)
        ctx.save_for_backward(*given, *done.kept)
        return done.results

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        saved = ctx.saved_tensors
        given, kept = saved[: len(saved) - ctx.counts], saved[len(saved) - ctx.counts :]
        if not torch.is_grad_enabled() and compiled.is_safe(*given, *grads):
            return None, None, *compiled_matrix.backward(ctx.steps, ctx.parts.with_given(given), kept, grads)
        with torch.enable_grad():
            given = compiled.apart(*given)
            results = in_operators(ctx.steps, ctx.parts.with_given(given))
            wanted = [x for x in given if x.requires_grad]
            used = [(r, g) for r, g in zip(results, grads, strict=True) if r.requires_grad]
            found = iter(
                torch.autograd.grad(
                    [r for r, _ in used], wanted, [g for _, g in used], create_graph=True, materialize_grads=True
                )
            )
        return None, None, *(next(found) if x.requires_grad else None for x in given)


# in plain operators ----------------------------------------------------------------------------------


def in_operators(steps: int, parts: Parts) -> tuple[Tensor, ...]:
    """The same, chunk by chunk in plain operators: differentiable to any order, for every device and transform."""
    if parts.decay is not None and parts.decay.shape[-1] != 1:
        return _step_by_step(steps, parts) if any(w is not None for w in parts.inners) else _stored(steps, parts)
    # 0 * nan is nan: inside a dense chunk a non-finite step would reach the steps before it
    if any(is_concrete(x) and not bool(torch.isfinite(x.detach()).all()) for x in parts.given()):
        return _step_by_step(steps, parts)
    return _chunked(steps, parts)


def _stored(steps: int, parts: Parts) -> tuple[Tensor, ...]:
    """Decays that differ along V: a diagonal scan of all states, then the reads."""
    drive = sum(
        u.unsqueeze(-1) * v.unsqueeze(-2) for u, v in zip(parts.lefts, parts.values, strict=True) if v is not None
    )
    assert isinstance(drive, Tensor) and parts.decay is not None
    start = parts.start
    states = scan_diagonal(parts.decay, drive.expand(steps, *start.shape), start)
    before = torch.cat([start.unsqueeze(0), states[:-1]]) if any(parts.delays) else states
    reads = [
        (q.unsqueeze(-2) @ (before if delay else states)).squeeze(-2)
        for q, delay in zip(parts.queries, parts.delays, strict=True)
    ]
    return (*reads, states[-1])


def _step_by_step(steps: int, parts: Parts) -> tuple[Tensor, ...]:
    """As it is defined: for decays along V together with inner reads, which no product of chunks expresses."""

    def at(x: Tensor, t: int) -> Tensor:
        return x[t if x.shape[0] > 1 else 0]

    def contract(x: Tensor, t: int, state: Tensor) -> Tensor:
        return (at(x, t).unsqueeze(-2) @ state).squeeze(-2)

    state, reads = parts.start, [list[Tensor]() for _ in parts.queries]
    for t in range(steps):
        new = state if parts.decay is None else at(parts.decay, t) * state
        for u, w, v in zip(parts.lefts, parts.inners, parts.values, strict=True):
            y = 0.0 if v is None else at(v, t)
            y = y if w is None else y + contract(w, t, state)
            assert isinstance(y, Tensor)
            new = new + at(u, t).unsqueeze(-1) * y.unsqueeze(-2)
        for read, q, delay in zip(reads, parts.queries, parts.delays, strict=True):
            read.append(contract(q, t, state if delay else new))
        state = new
    return (*(torch.stack(r) for r in reads), state)


def _chunked(steps: int, parts: Parts) -> tuple[Tensor, ...]:
    updates = len(parts.lefts)
    size = min(max(_CHUNK // _power(updates), 8), _power(steps))
    count = -(-steps // size)

    def chunks(x: Tensor, fill: float = 0.0) -> Tensor:  # (T or 1, *P, K) -> (*P, N, C, K)
        x = x.expand(steps, *x.shape[1:])
        if count * size != steps:
            x = torch.cat([x, torch.full_like(x[:1], fill).expand(count * size - steps, *x.shape[1:])])
        return x.movedim(0, -2).reshape(*x.shape[1:-1], count, size, x.shape[-1])

    passing = parts.start.shape[:-2]
    decay = None if parts.decay is None else chunks(parts.decay.squeeze(-1), 1.0)
    levels = _levels(decay, size)
    inclusive, after, total = levels[-1]  # products from the chunk's first step to t, from s + 1 to its last, of all
    lefts = [chunks(u) for u in parts.lefts]
    queries = [chunks(q) for q in parts.queries]
    width = parts.start.shape[-1]
    blank = parts.start.new_zeros(()).expand(*passing, count, size, width)
    given = [blank if v is None else chunks(v).expand(*passing, count, size, width) for v in parts.values]
    # rows in the order of time, then of updates: (*P, N, C R, ...)
    left = _stacked([_scaled(u, after) for u in lefts], -2).flatten(-3, -2)
    y = torch.stack(given, -2).flatten(-3, -2)
    start, ends = parts.start.unsqueeze(-3), None
    if any(w is not None for w in parts.inners):
        inners = [None if w is None else chunks(w) for w in parts.inners]
        y, lift = _solved(y, inners, lefts, levels)
        # S' = a S + U^T (y + lift S), chunk by chunk
        added, turn = left.mT @ y, left.mT @ lift
        state, befores = parts.start, []
        for n in range(count):
            befores.append(state)
            kept = state if total is None else total[..., n, :].unsqueeze(-1) * state
            state = kept + turn[..., n, :, :] @ state + added[..., n, :, :]
        before, last = torch.stack(befores, -3), state
        y = y + lift @ before
    else:
        added = (left.mT @ y).movedim(-3, 0)
        a = added.new_ones((1,) * added.dim()) if total is None else total.unsqueeze(-1).movedim(-3, 0)
        ends = scan_diagonal(a, added.expand(count, *parts.start.shape), parts.start)
        last = ends[-1]
        before = torch.cat([start, ends[:-1].movedim(0, -3)], -3)
    reads = []
    for q, delay in zip(queries, parts.delays, strict=True):
        if delay:
            inside = _stacked([_shifted(_decayed(_ahead(q), u, levels)) for u in lefts], -1)
            seen = _scaled(q, None if inclusive is None else _until(inclusive))
        else:
            inside = _stacked([_decayed(q, u, levels) for u in lefts], -1)
            seen = _scaled(q, inclusive)
        read = inside.flatten(-2) @ y + seen @ before
        reads.append(read.flatten(-3, -2)[..., :steps, :].movedim(-2, 0))
    return (*reads, last)


def _solved(
    y: Tensor, inners: Sequence[Tensor | None], lefts: Sequence[Tensor], levels: Sequence[Any]
) -> tuple[Tensor, Tensor]:
    """(I - L)^-1 applied to the values and to the rows that read the state before the chunk."""
    inclusive = levels[-1][0]
    blank = torch.zeros_like(lefts[0])
    rows = _stacked(
        [
            _stacked([_shifted(_decayed(_ahead(w), u, levels)) if w is not None else _none(u) for u in lefts], -1)
            for w in inners
        ],
        -3,
    )  # (..., C, R, C, R)
    known = _stacked(
        [blank if w is None else _scaled(w, None if inclusive is None else _until(inclusive)) for w in inners], -2
    ).flatten(-3, -2)
    lower = -rows.flatten(-4, -3).flatten(-2)
    lead = y.shape[:-2]
    right = torch.cat([y, known.expand(*lead, *known.shape[-2:])], -1)
    solved = torch.linalg.solve_triangular(
        (lower + torch.eye(lower.shape[-1], dtype=y.dtype, device=y.device)).expand(*lead, *lower.shape[-2:]),
        right,
        upper=False,
        unitriangular=True,
    )
    return solved[..., : y.shape[-1]], solved[..., y.shape[-1] :]


def _stacked(parts: Sequence[Tensor], dim: int) -> Tensor:
    """A stack of what may differ in the axes it is shared along."""
    return torch.stack(torch.broadcast_tensors(*parts), dim)  # type: ignore[no-untyped-call]


def _none(u: Tensor) -> Tensor:
    return u.new_zeros((*u.shape[:-1], u.shape[-2]))


def _power(n: int) -> int:
    """The smallest power of two that is at least n."""
    return 1 << (n - 1).bit_length()


def _scaled(x: Tensor, by: Tensor | None) -> Tensor:
    return x if by is None else x * by


def _ahead(x: Tensor) -> Tensor:  # row t is x[t + 1]
    return torch.cat([x[..., 1:, :], torch.zeros_like(x[..., :1, :])], -2)


def _shifted(x: Tensor) -> Tensor:  # row t is x[t - 1]
    return torch.cat([torch.zeros_like(x[..., :1, :]), x[..., :-1, :]], -2)


def _until(inclusive: Tensor) -> Tensor:  # products that leave out step t itself
    return torch.cat([torch.ones_like(inclusive[..., :1, :]), inclusive[..., :-1, :]], -2)


Level = tuple[Tensor | None, Tensor | None, Tensor | None]


def _levels(a: Tensor | None, size: int) -> list[Level]:
    """For blocks of 1, 2, 4, ..., size steps: products up to each step, after each step, and of the block.

    Two blocks make one: the later steps' products take the earlier block's total and the other way round.
    """
    if a is None:
        return [(None, None, None)]
    one = a.unsqueeze(-2)  # (..., blocks, 1, K)
    levels = [(one, torch.ones_like(one), one.squeeze(-2))]
    while levels[-1][0].shape[-2] < size:
        until, after, total = levels[-1]
        first, second = total[..., 0::2, :].unsqueeze(-2), total[..., 1::2, :].unsqueeze(-2)
        until = torch.cat([until[..., 0::2, :, :], until[..., 1::2, :, :] * first], -2)
        after = torch.cat([after[..., 0::2, :, :] * second, after[..., 1::2, :, :]], -2)
        levels.append((until, after, (first * second).squeeze(-2)))
    until, after, total = levels[-1]
    return [*levels[:-1], (until.squeeze(-3), after.squeeze(-3), total.squeeze(-2))]


def _decayed(x: Tensor, y: Tensor, levels: Sequence[Any]) -> Tensor:  # (..., C, K), (..., C, K) -> (..., C, C)
    """M[t, s] = sum_k x[t, k] (a[s+1] ... a[t])[k] y[s, k] for s <= t, else 0.

    Between the two halves of a block the product splits at the middle: one matrix product a level.
    """
    size = x.shape[-2]
    if levels[-1][0] is None:
        return (x @ y.mT).tril()
    if levels[-1][0].shape[-1] == 1 and x.shape[-1] != 1:  # one decay for all k
        one = x.new_ones((1,) * (x.dim() - 2) + (size, 1))
        return _decayed(one, one, levels) * (x @ y.mT)
    block = (x * y).sum(-1, keepdim=True).unsqueeze(-1)  # (..., C, 1, 1)
    for until, after, _ in levels[:-1]:
        width = until.shape[-2]
        rows, columns = (z.reshape(*z.shape[:-2], size // width, width, z.shape[-1]) for z in (x, y))
        later, earlier = (
            rows[..., 1::2, :, :] * until[..., 1::2, :, :],
            columns[..., 0::2, :, :] * after[..., 0::2, :, :],
        )
        cross = later @ earlier.mT
        upper, lower = block[..., 0::2, :, :].expand_as(cross), block[..., 1::2, :, :].expand_as(cross)
        block = torch.cat([torch.cat([upper, torch.zeros_like(cross)], -1), torch.cat([cross, lower], -1)], -2)
    return block.squeeze(-3)
