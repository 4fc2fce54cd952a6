"""The compiled path of scans: when it is safe, and how tensors reach it.

A compiled kernel knows addresses and strides and nothing of autograd, tracing or batching. It runs where tensors are
plain strided CPU tensors and nobody looks over their shoulder; everything else takes the plain operators beside it,
which keep every property of torch. First derivatives have a kernel of their own; a derivative that is itself to be
differentiated is written in operators again.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from ctypes import c_int64
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from linrec import native

TYPES = {torch.float32: "f32", torch.float64: "f64", torch.complex64: "c64", torch.complex128: "c128"}
_SERIAL = 1 << 14  # numbers up to which one thread is faster than waking the others
_LANES = 32  # with fewer independent lanes a thread, time is cut as well
_RUN = 256  # steps that a cut should at least have
_LARGE = 1 << 22  # bytes of a result from which it asks for large pages


def is_safe(*tensors: Tensor) -> bool:
    """May compiled kernels work on these tensors?"""
    return (
        is_eager(*tensors)
        and native.kernels() is not None
        and tensors[0].dtype in TYPES
        and all(x.dtype is tensors[0].dtype and x.device.type == "cpu" and x.numel() > 0 for x in tensors)
    )


def apart(*saved: Tensor) -> tuple[Tensor, ...]:
    """Saved tensors as nodes of their own: one may be made of another, which a derivative by that one must not count."""
    return tuple(x.view_as(x) for x in saved)


def is_eager(*tensors: Tensor) -> bool:
    """Are these plain tensors, with nobody looking over their shoulder but autograd?

    Not subclasses (fake tensors), nor other layouts, nor under a torch.func transform, forward-mode differentiation,
    a dispatch mode (tracing), torch.compile, torch.export or torch.jit.trace.
    """
    if torch.compiler.is_compiling():
        return False
    if torch._C._len_torch_dispatch_stack() or torch._C._functorch.peek_interpreter_stack() is not None:
        return False
    level: int = forward_ad._current_level
    if level >= 0 or torch._C._get_tracing_state() is not None:
        return False
    return all(
        type(x) in (Tensor, torch.nn.Parameter)
        and x.layout is torch.strided
        and not torch._C._functorch.is_functorch_wrapped_tensor(x)
        and not torch._C._functorch.is_legacy_batchedtensor(x)
        for x in tensors
    )


def plain(x: Tensor) -> Tensor:
    """The numbers in memory as they are read: lazy conjugates and negatives are carried out."""
    return x.detach().resolve_conj().resolve_neg()


def fresh(result: Tensor) -> Tensor:
    """A result that was just allocated and is about to be written; a large one asks for large pages, as numpy's do.

    Writing 16 MiB takes 1 ms, and touching its 4,096 small pages for the first time 7 ms.
    """
    if result.nbytes >= _LARGE and (library := native.kernels()) is not None and result.device.type == "cpu":
        library.large_pages(result.data_ptr(), result.nbytes)
    return result


@functools.lru_cache(maxsize=4096)
def _plan(sizes: tuple[int, ...], strides: tuple[tuple[int, ...], ...], main: int) -> tuple[Any, Any, int]:
    """Strides (time, outer axes, lanes) of every tensor and the sizes, neighbouring axes joined where they can be.

    Lanes are the axis along which tensor `main` lies closest in memory.
    """
    axes = sorted((i for i, n in enumerate(sizes) if n > 1), key=lambda i: -abs(strides[main][i + 1]))
    joined: list[tuple[int, list[int]]] = []
    for i in axes:
        steps = [s[i + 1] for s in strides]
        if joined and all(s * sizes[i] == t for s, t in zip(steps, joined[-1][1], strict=True)):
            joined[-1] = (joined[-1][0] * sizes[i], steps)
        else:
            joined.append((sizes[i], steps))
    joined = joined or [(1, [0] * len(strides))]
    flat = [x for j, s in enumerate(strides) for x in (s[0], *(steps[j] for _, steps in joined))]
    return (c_int64 * len(flat))(*flat), (c_int64 * len(joined))(*(n for n, _ in joined)), len(joined) - 1


def _strides(x: Tensor, sizes: Sequence[int]) -> tuple[int, ...]:
    """Strides with zeros along axes that are broadcast."""
    return tuple(0 if n == 1 else s for s, n in zip(x.stride(), x.shape, strict=True))


def call(kernel: str, tensors: Sequence[Tensor], steps: int, sizes: tuple[int, ...], main: int) -> None:
    """Run a scan kernel on tensors of shape (time, *sizes), any of these axes of size one."""
    strides = tuple(_strides(x, sizes) for x in tensors)
    flat, lanes, rank = _plan(sizes, strides, main)
    threads = 1 if steps * _product(sizes) <= _SERIAL else torch.get_num_threads()
    function = getattr(native.kernels(), f"{kernel}_{TYPES[tensors[0].dtype]}")
    function(*(x.data_ptr() for x in tensors), flat, steps, lanes, rank, threads)


def _product(sizes: Sequence[int]) -> int:
    total = 1
    for n in sizes:
        total *= n
    return total


def forward(a: Tensor, b: Tensor, start: Tensor) -> Tensor:
    """All states of s[k] = a[k] s[k-1] + b[k]: a (T or 1, e or 1s), b (T, e), start (e or 1s) -> (T, e)."""
    a, b, start = plain(a), plain(b), plain(start)
    h = fresh(torch.empty_like(b))
    _forward(a, b, h, start)
    return h


def _forward(a: Tensor, b: Tensor, h: Tensor, start: Tensor) -> None:
    steps, sizes = b.shape[0], tuple(b.shape[1:])
    runs = _runs(steps, sizes, a, b)
    if runs == 1:
        call("scan_forward", (a, b, h, start.expand(sizes).unsqueeze(0)), steps, sizes, 2)
        return
    # few lanes: runs of time side by side. First their ends from zero, then the states between them, then all
    length = steps // runs
    whole = runs * length
    x, y, z = (_cut(t, runs, length) for t in (a, b, h))
    product, end = (torch.empty(1, runs, *sizes, dtype=b.dtype) for _ in range(2))
    call("scan_ends", (x, y, product, end), length, (runs, *sizes), 1)
    ends = torch.empty(runs, *sizes, dtype=b.dtype)
    call("scan_forward", (product[0], end[0], ends, start.expand(sizes).unsqueeze(0)), runs, sizes, 2)
    before = torch.cat([start.expand(sizes).unsqueeze(0), ends[:-1]])
    call("scan_forward", (x, y, z, before.unsqueeze(0)), length, (runs, *sizes), 2)
    if whole < steps:
        rest = a[whole:] if a.shape[0] > 1 else a
        call("scan_forward", (rest, b[whole:], h[whole:], h[whole - 1 : whole]), steps - whole, sizes, 2)


def _runs(steps: int, sizes: tuple[int, ...], *tensors: Tensor) -> int:
    """Into how many runs of time a scan is cut: one where there are lanes enough, or steps in one register."""
    lanes = _product(sizes)
    if not tensors[0].is_complex() and all(x.stride(0) == 1 for x in tensors):
        return 1  # linrec/native/wide.h
    wanted = _LANES * torch.get_num_threads()
    if lanes * 4 > wanted or steps * lanes <= _SERIAL:
        return 1
    return max(min(wanted // lanes, steps // _RUN), 1)


def _cut(x: Tensor, runs: int, length: int) -> Tensor:  # (T, ...) -> (length, runs, ...)
    if x.shape[0] == 1:
        return x.unsqueeze(1)
    return x[: runs * length].view(runs, length, *x.shape[1:]).transpose(0, 1)


def backward(a: Tensor, g: Tensor, h: Tensor, start: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of `forward` in a, b and start for the gradient g of the states."""
    a, g, h, start = plain(a), plain(g), plain(h), plain(start)
    steps, sizes = h.shape[0], tuple(h.shape[1:])
    if g.stride() != h.stride():
        g = torch.empty_like(h).copy_(g)
    if _runs(steps, sizes, a, g) > 1:
        return _backward_in_runs(a, g, h, start)
    db, ds = fresh(torch.empty_like(h)), torch.empty((1, *sizes), dtype=h.dtype)
    if a.shape == h.shape:
        da = fresh(torch.empty_like(a))
    else:  # broadcast: summed over time by the kernel, over the other axes below
        da = torch.empty_like(h[: a.shape[0]])
    call("scan_backward", (a, g, h, start.expand(sizes).unsqueeze(0), da, db, ds), steps, sizes, 2)
    return da.sum_to_size(a.shape), db, ds[0].sum_to_size(start.shape)


def _backward_in_runs(a: Tensor, g: Tensor, h: Tensor, start: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    # db[k] = g[k] + conj(a[k+1]) db[k+1] is the same scan with time reversed
    after = torch.cat([a[1:].expand(g.shape[0] - 1, *a.shape[1:]), a[:1]]) if a.shape[0] > 1 else a
    zero = torch.zeros(g.shape[1:], dtype=g.dtype)
    db = forward(after.conj().flip(0) if after.shape[0] > 1 else after.conj(), g.flip(0), zero).flip(0)
    da = db * torch.cat([start.expand_as(h[0]).unsqueeze(0), h[:-1]]).conj()
    return da.sum_to_size(a.shape), db, (a[0].conj() * db[0]).sum_to_size(start.shape)
