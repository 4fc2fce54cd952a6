"""Steps of channels to channels of steps and back, and how loud each step is: passes over memory.

In torch's operators a transposing copy into a wider tensor, or a maximum over all axes but time, takes longer than
the Fourier transform beside it. Compiled where tensors lie as it needs them (linrec/native/layout.h), else operators.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from linrec import native

_WORDS = {torch.float32: "w32", torch.float64: "w64", torch.complex64: "w64"}
_SHORT = 1 << 12  # numbers of a row of the batch from which a call of its own pays
_SERIAL = 1 << 16


def to_rows(x: Tensor, rows: Tensor) -> None:  # (b, T, g, p) -> the first T steps of (b, g, p, S), contiguous
    """Write channels of steps."""
    steps, size = x.shape[1], rows.shape[-1]
    if not _is_direct(x, rows):
        rows[..., :steps].copy_(x.permute(0, 2, 3, 1))
        return
    for i in range(x.shape[0]):
        _transpose(x[i], rows[i], steps, x[0, 0].numel(), x.stride(1), size)


def from_rows(rows: Tensor, x: Tensor) -> None:  # the first T steps of (b, g, q, S), contiguous -> (b, T, g, q)
    """Write steps of channels."""
    steps, size = x.shape[1], rows.shape[-1]
    if not _is_direct(x, rows):
        x.copy_(rows[..., :steps].permute(0, 3, 1, 2))
        return
    for i in range(x.shape[0]):
        _transpose(rows[i], x[i], x[0, 0].numel(), steps, size, x.stride(1))


def loudest(x: Tensor) -> Tensor:  # (b, T, g, p) -> (T)
    """The largest magnitude in each step; NaN where there is one."""
    if x.is_complex() or not _is_flat(x):
        norm: Tensor = torch.linalg.vector_norm(x, math.inf, dim=(0, 2, 3))
        return norm
    most = torch.zeros(x.shape[1], dtype=x.dtype)
    getattr(native.kernels(), f"loudest_{_WORDS[x.dtype]}")(
        x.data_ptr(), most.data_ptr(), len(most), x[0, 0].numel(), x.stride(1), len(x), x.stride(0), _threads(x)
    )
    return most


def _is_direct(x: Tensor, rows: Tensor) -> bool:
    return x.dtype is rows.dtype and x[0].numel() >= _SHORT and _is_flat(x) and rows.is_contiguous()


def _is_flat(x: Tensor) -> bool:
    """Do the numbers of a step lie side by side, where compiled code can read them?"""
    return (
        native.kernels() is not None
        and x.device.type == "cpu"
        and x.dtype in _WORDS
        and not (x.is_conj() or x.is_neg())
        and x[0, 0].is_contiguous()
    )


def _transpose(source: Tensor, target: Tensor, rows: int, columns: int, from_row: int, to_row: int) -> None:
    function = getattr(native.kernels(), f"transpose_{_WORDS[source.dtype]}")
    function(source.data_ptr(), target.data_ptr(), rows, columns, from_row, to_row, _threads(source))


def _threads(x: Tensor) -> int:
    return 1 if x.numel() < _SERIAL else torch.get_num_threads()
