"""Dense scans compiled: how tensors reach linrec/native/dense.h."""

from __future__ import annotations

from ctypes import c_int64

import torch
from torch import Tensor

from linrec import native
from linrec.kernels.compiled import TYPES, fresh, plain

_SERIAL = 1 << 15  # multiplications up to which one thread is faster than waking the others


def forward(a: Tensor, b: Tensor, start: Tensor) -> Tensor:
    """All states of s[k] = A[k] s[k-1] + b[k]: (T or 1, p, n, n), (T, p, n, c), (p, n, c) -> (T, p, n, c)."""
    a, b = _lined(plain(a)), plain(b)
    h = fresh(torch.empty_like(b))
    _walk(a, b, h, plain(start), is_back=False)
    return h


def adjoints(a: Tensor, g: Tensor, like: Tensor) -> Tensor:
    """d[k] = g[k] + A[k+1]^H d[k+1], all k, laid out as `like`: (T or 1, p, n, n), (T, p, n, c) -> (T, p, n, c)."""
    a, g = _lined(plain(a)), plain(g)
    d = fresh(torch.empty_like(like))
    d[-1] = g[-1]
    if len(d) > 1:
        _walk(a[1:] if len(a) > 1 else a, g[:-1], d[:-1], d[-1], is_back=True)
    return d


def _lined(a: Tensor) -> Tensor:
    """Matrices whose rows or columns lie in memory."""
    return a if 1 in a.stride()[-2:] else a.contiguous()


def _walk(a: Tensor, b: Tensor, h: Tensor, start: Tensor, *, is_back: bool) -> None:
    steps, outer, n, columns = b.shape
    tensors = [a.mT if is_back else a, b, h, start.unsqueeze(0)]
    strides = [[0 if size == 1 else s for s, size in zip(x.stride(), x.shape, strict=True)] for x in tensors]
    addresses = [x.data_ptr() for x in tensors]
    if is_back:  # from the last step on
        addresses = [
            at + (len(x) - 1) * s[0] * x.element_size() for at, x, s in zip(addresses, tensors, strides, strict=True)
        ]
        strides = [[-s[0], *s[1:]] for s in strides]
    flat = [s for row in strides for s in row]
    threads = 1 if steps * outer * columns * n**2 <= _SERIAL else torch.get_num_threads()
    getattr(native.kernels(), f"dense_scan_{TYPES[b.dtype]}")(
        *addresses, (c_int64 * len(flat))(*flat), steps, outer, n, columns, is_back, threads
    )
