"""Matrix states compiled: how tensors reach linrec/native/matrix.h."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from ctypes import byref, c_int64, c_void_p
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from linrec import native
from linrec.kernels.compiled import TYPES, plain

if TYPE_CHECKING:
    from linrec.kernels.matrix import Parts

_SCRATCH = 1 << 19  # bytes of recomputed states that stay in the second-level cache


@dataclass(frozen=True)
class Done:
    """Reads and last state, and what the way back needs: states before chunks, then y of updates with inner reads."""

    results: tuple[Tensor, ...]
    kept: tuple[Tensor, ...]


def fits(parts: Parts) -> bool:
    """Real numbers, and no more updates and reads than the kernel takes."""
    most = max(len(parts.lefts), len(parts.queries))
    return parts.start.dtype in (torch.float32, torch.float64) and 0 < len(parts.lefts) and most <= native.MOST_UPDATES


class _Call:
    """One call: operands in the kernel's order, and the walk that describes them."""

    def __init__(
        self, steps: int, parts: Parts, outs: Sequence[Tensor], final: Tensor, kept: Sequence[Tensor | None]
    ) -> None:
        self.start = plain(parts.start)
        *self.passing, self.k, self.v = self.start.shape
        self.steps, self.dtype = steps, self.start.dtype
        self.rank = len(self.passing)
        self.operands: list[tuple[int, list[int]]] = []
        self.alive: list[Any] = []
        self.add(parts.decay, 2)
        for x in (*parts.lefts, *parts.inners, *parts.values, *parts.queries, *outs):
            self.add(x)
        self.add(self.start.expand(*self.passing, self.k, self.v).contiguous().unsqueeze(0), 2)
        self.add(final.unsqueeze(0), 2)
        for x in kept:
            self.add(x)
        outer = 1
        for n in self.passing:
            outer *= n
        bytes_ = self.k * self.v * self.start.element_size()
        self.chunk = min(max(_SCRATCH // bytes_, 16), max(steps, 1))
        sizes, delays = (c_int64 * self.rank)(*self.passing), (c_int64 * len(parts.delays))(*parts.delays)
        self.alive += [sizes, delays]
        work = steps * outer * self.k * self.v
        self.walk = native.Walk(
            steps, self.k, self.v, outer, self.chunk,
            ctypes.addressof(sizes), ctypes.addressof(delays), None, None,
            self.rank, len(parts.lefts), len(parts.queries), 1 if work < 1 << 16 else torch.get_num_threads(),
        )  # fmt: skip

    def add(self, x: Tensor | None, own: int = 1) -> None:
        """An operand (T or 1, *P or 1s, own axes), zero strides where it is broadcast."""
        if x is None:
            self.operands.append((0, [0] * (self.rank + 3)))
            return
        x = plain(x)
        if x.shape[-1] != 1 and x.stride(-1) != 1 and own == 1:
            x = x.contiguous()
        self.alive.append(x)
        strides = [0 if n == 1 else s for s, n in zip(x.stride(), x.shape, strict=True)]
        self.operands.append((x.data_ptr(), [*strides, *[0] * (self.rank + 3 - len(strides))]))

    def run(self, kernel: str) -> None:
        """Call it; the first own stride of an operand is at place rank + 1."""
        flat = [s for _, strides in self.operands for s in strides]
        function = getattr(native.kernels(), f"matrix_{kernel}_{TYPES[self.dtype]}")
        addresses = (c_void_p * len(self.operands))(*(at for at, _ in self.operands))
        function(byref(self.walk), addresses, (c_int64 * len(flat))(*flat), len(self.operands))


def _wide(x: Tensor, size: int) -> Tensor:
    """Vectors at their full length: the kernel reads them without strides."""
    return x if x.shape[-1] == size else x.expand(*x.shape[:-1], size).contiguous()


def _full(parts: Parts) -> Parts:
    k, v = parts.start.shape[-2:]
    rows = [*([] if parts.decay is None else [parts.decay])]
    rows += [_wide(x, k) for x in parts.lefts]
    rows += [_wide(x, k) for x in parts.inners if x is not None]
    rows += [_wide(x, v) for x in parts.values if x is not None]
    rows += [_wide(x, k) for x in parts.queries]
    return parts.with_given([*rows, parts.start])


def forward(steps: int, parts: Parts, *, keep: bool) -> Done:
    """Reads and the last state; with `keep`, what `backward` needs."""
    parts = _full(parts)
    *passing, k, v = parts.start.shape
    new = parts.start.new_empty
    reads = [_like(steps, passing, v, parts) for _ in parts.queries]
    final = new((*passing, k, v))
    inner = [new((steps, *passing, v)) if w is not None and keep else None for w in parts.inners]
    call = _Call(steps, parts, reads, final, inner)
    kept: tuple[Tensor, ...] = ()
    if keep:
        saved = new((-(-steps // call.chunk), *passing, k, v))
        call.walk.saved = saved.data_ptr()
        kept = (saved, *(y for y in inner if y is not None))
    call.run("forward")
    return Done((*reads, final), kept)


def _like(steps: int, passing: Sequence[int], width: int, parts: Parts) -> Tensor:
    """An output that lies in memory as the values or queries do: time may come after batch axes."""
    shape = (steps, *passing, width)
    for x in (*parts.values, *parts.queries):
        if x is not None and x.shape[:-1] == shape[:-1] and x.stride(-1) == 1:
            order = [*sorted(range(len(shape) - 1), key=x.stride().__getitem__, reverse=True), len(shape) - 1]
            base = x.new_empty([shape[i] for i in order])
            return base.permute([order.index(i) for i in range(len(shape))])
    return parts.start.new_empty(shape)


def backward(steps: int, parts: Parts, kept: Sequence[Tensor], grads: Sequence[Tensor]) -> list[Tensor]:
    """Gradients of all given tensors for gradients of the reads and of the last state."""
    shapes = [x.shape for x in parts.given()]
    parts = _full(parts)
    *passing, k, v = parts.start.shape
    new = parts.start.new_empty
    saved, *inner = kept
    left = iter(inner)
    ys = [None if w is None else next(left) for w in parts.inners]
    final = plain(grads[-1]).contiguous()
    call = _Call(steps, parts, grads[:-1], final, ys)
    call.walk.saved, call.walk.d_final = saved.data_ptr(), final.data_ptr()
    vector, row = (steps, *passing, k), (steps, *passing, v)
    decay = None if parts.decay is None else new((steps, *passing, *parts.decay.shape[-2:]))
    lefts = [new(vector) for _ in parts.lefts]
    inners = [None if w is None else new(vector) for w in parts.inners]
    values = [None if x is None else new(row) for x in parts.values]
    queries = [new(vector) for _ in parts.queries]
    start = new((1, *passing, k, v))
    call.add(decay, 2)
    for x in (*lefts, *inners, *values, *queries):
        call.add(x)
    call.add(start, 2)
    call.run("backward")
    found = [x for x in (decay, *lefts, *inners, *values, *queries, start[0]) if x is not None]
    return [x.sum_to_size(shape) for x, shape in zip(found, shapes, strict=True)]
