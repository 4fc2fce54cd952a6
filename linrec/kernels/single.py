"""One input, one output, chunk by chunk: what filters are.

Rows of C steps are multiplied by a C x C Toeplitz matrix, so all T steps are one matrix product over contiguous memory.
The states between the T/C chunks are a recurrence of their own, with transition A^C, that is cut into chunks likewise.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

CHUNK = 48  # steps in a row: C + 2 n multiplications a step, and products large enough to be fast
_LEVEL = 6  # states in a row of the recurrence between chunks
_DIRECT = 16  # so many states are advanced one by one


def single_chunked(
    w: Tensor, a: Tensor, g: Tensor, c: Tensor, d: Tensor, powers: Callable[..., Tensor]
) -> Tensor | None:  # (b, T), (n, n), (n, 1), (1, n), (1, 1) -> (b, T)
    """y[k] = c s[k-1] + d w[k], s[k] = a s[k-1] + g w[k]; None if w is not finite.

    O(b T (C + 2 n)) operations in three products; O(log T) dependent ones between them.
    """
    b, t = w.shape
    n = len(a)
    wide = torch.complex128 if a.is_complex() else torch.float64
    a64, c64 = a.to(wide), c.to(wide)
    count = -(-t // CHUNK)
    rows = torch.nn.functional.pad(w, (0, count * CHUNK - t)) if t % CHUNK else w
    rows = rows.reshape(b * count, CHUNK)
    driven = powers(a64.unsqueeze(0), g.to(wide).unsqueeze(0), CHUNK)[:, 0, :, 0]  # (C, n), row k: A^k g
    ends = rows @ driven.flip(0).to(w.dtype)  # what a chunk leaves: sum_s A^(C-1-s) g w[s]
    # one non-finite step would reach the steps before it in its chunk: 0 * nan is nan
    if not torch._C._functorch.is_functorch_wrapped_tensor(w) and not torch.compiler.is_compiling():
        if not bool(torch.isfinite(ends.detach().sum())):
            return None
    response = torch.cat([d.to(wide), driven[:-1] @ c64.T])[:, 0]  # d, c g, c A g, ...
    at = torch.arange(CHUNK, device=w.device)
    gap = at - at.unsqueeze(1)  # [s, t] = t - s
    y = rows @ (response[gap.clamp(min=0)] * (gap >= 0)).to(w.dtype)
    before = states_before(ends.reshape(b, count, n), torch.linalg.matrix_power(a64, CHUNK))
    seen = powers(a64.mT.unsqueeze(0), c64.mT.unsqueeze(0), CHUNK)[:, 0, :, 0]  # (C, n), row t: c A^t
    y = y.addmm_(before.reshape(-1, n), seen.T.to(w.dtype))
    return y.reshape(b, count * CHUNK)[:, :t]


def states_before(added: Tensor, a: Tensor) -> Tensor:  # (b, m, n), (n, n) in double precision -> (b, m, n)
    """s[j] of s[j+1] = a s[j] + added[j] from s[0] = 0, for all j < m: O(b m n^2) operations."""
    b, m, n = added.shape
    if m <= _DIRECT:
        states = [torch.zeros_like(added[:, 0])]
        step = a.to(added.dtype).T
        for j in range(m - 1):
            states.append(torch.addmm(added[:, j], states[-1], step))
        return torch.stack(states, 1)
    count = -(-m // _LEVEL)
    rows = torch.nn.functional.pad(added, (0, 0, 0, count * _LEVEL - m)).reshape(b * count, _LEVEL * n)
    steps = [torch.eye(n, dtype=a.dtype, device=a.device)]
    for _ in range(_LEVEL):
        steps.append(a @ steps[-1])
    none = torch.zeros_like(a)
    # block [s, t]: what added[s] is worth in the state before t > s, and in the state after the row
    inside = [torch.cat([none if t <= s else steps[t - s - 1].T for t in range(_LEVEL + 1)], 1) for s in range(_LEVEL)]
    whole = rows @ torch.cat(inside).to(added.dtype)
    before = states_before(whole[:, _LEVEL * n :].reshape(b, count, n), steps[_LEVEL])
    carried = before.reshape(b * count, n) @ torch.cat([p.T for p in steps[:_LEVEL]], 1).to(added.dtype)
    return (whole[:, : _LEVEL * n] + carried).reshape(b, count * _LEVEL, n)[:, :m]
