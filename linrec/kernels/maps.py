"""The matrix of a linear operator: what it makes of the unit vectors of some axes of one argument."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def map_matrix(
    kind: str,
    place: int,
    shape: Sequence[int],
    axes: Sequence[int],
    unit: Tensor | complex,
    dtype: torch.dtype,
    args: Sequence[Any],
    **attrs: Any,
) -> Tensor:
    """f(e_1), ..., f(e_n) for the n unit vectors along `axes` of argument `place`, times `unit`.

    Args:
        kind: the operator; `args` and `attrs` are what it is called with, `args[place]` is replaced.
        shape: the shape of that argument, one for axes along which the operator acts independently.
        axes: the axes that the operator mixes; n is the product of their sizes.
        unit: 1, or 1j to probe a map that is linear over the reals only.
        dtype: the element type of the unit vectors.

    Returns:
        (n, *shape of the result). O(n) times the cost of one call, in one call of the operator.
    """
    operator = getattr(torch.ops.aten, kind)
    device = next((a.device for a in args if isinstance(a, Tensor)), None)
    n = math.prod(shape[i] for i in axes)
    narrow = [size if i in axes else 1 for i, size in enumerate(shape)]
    basis = torch.eye(n, dtype=dtype, device=device).reshape(n, *narrow).expand(n, *shape) * unit

    def call(vector: Tensor) -> Tensor:
        result: Tensor = operator(*args[:place], vector, *args[place + 1 :], **attrs)
        return result

    if n == 0:
        return call(basis.sum(0)).expand(0, *call(basis.sum(0)).shape)
    return torch.func.vmap(call)(basis)
