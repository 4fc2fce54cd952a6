"""`torch.func.vmap` for emitted code, without its fixed cost.

Emitted functions map tensors by place to a tuple of tensors, so nothing has to be looked for in trees of arguments:
that takes longer than the operators of a short program. Whoever traces or transforms a program gets torch's own.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._C import _functorch

from linrec.kernels.compiled import is_eager


@functools.cache
def _prepared() -> None:
    """Once: torch registers what it decomposes under vmap when it is first used."""
    torch.func.vmap(torch.neg)(torch.zeros(1))


def vmap(function: Callable[..., Any], in_dims: Sequence[int], out_dims: Sequence[int]) -> Callable[..., Any]:
    """`function`, a tuple of tensors of tensors, over the axes `in_dims` of its arguments."""

    def mapped(*tensors: Tensor) -> Any:
        if not is_eager(*tensors):
            return torch.func.vmap(function, tuple(in_dims), tuple(out_dims))(*tensors)
        _prepared()
        size = tensors[0].shape[in_dims[0]]
        level = _functorch._vmap_increment_nesting(size, "error")
        try:
            batched = [_functorch._add_batch_dim(x, axis, level) for x, axis in zip(tensors, in_dims, strict=True)]
            return tuple(
                tuple(_functorch._remove_batch_dim(part, level, size, axis) for part in y)
                if isinstance(y, tuple | list)  # an operator of several results
                else _functorch._remove_batch_dim(y, level, size, axis)
                for y, axis in zip(function(*batched), out_dims, strict=True)
            )
        finally:
            _functorch._vmap_decrement_nesting()

    return mapped
