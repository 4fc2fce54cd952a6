"""Composites: operators that torch makes of others, recorded as those others.

`outer`, `hstack` or `multiply` compute nothing of their own. Traced as what they are made of they need no rule in the
operator table, and what runs is what torch would have run. Those with a rule, a refusal or a meaning of their own (`linear`,
`einsum`, `softmax`, `dropout`) stay whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Any

import torch
from torch._decomp import decomposition_table
from torch._ops import OpOverload

# Composites that may pass a state on linearly, and other names of operators.
_COMPOSITES = (
    "adjoint atleast_1d atleast_2d atleast_3d broadcast_tensors broadcast_to cartesian_prod chain_matmul column_stack "
    "concat concatenate cumulative_trapezoid diag dsplit dstack fft_fftshift fft_ifftshift fliplr flipud ger "
    "gradient hsplit hstack inner kron linalg_diagonal linalg_matmul linalg_multi_dot linalg_vecdot lu_solve mH mT matrix_H "
    "meshgrid moveaxis movedim narrow numpy_T outer ravel row_stack sum_to_size swapaxes swapdims take_along_dim "
    "tensor_split tile trapezoid trapz unsafe_chunk vsplit vstack "
    "absolute arccos arccosh arcsin arcsinh arctan arctan2 arctanh divide greater greater_equal less less_equal multiply "
    "negative not_equal special_erf special_exp2 special_expit special_expm1 special_log1p special_log_softmax "
    "special_logsumexp special_round special_softmax subtract true_divide "
    "absolute_ divide_ multiply_ negative_ subtract_ swapaxes_ swapdims_ true_divide_ "
    "__and__ __or__ __xor__ __iand__ __ior__ __ixor__"
).split()
# Kernels of their own, whose definition by others torch holds.
_DEFINED = ("block_diag channel_shuffle deg2rad pixel_shuffle pixel_unshuffle rad2deg rot90 take vdot").split()


@cache
def composites() -> Mapping[OpOverload, Callable[..., Any]]:
    """For each composite what makes it of others."""
    made = {overload: overload.decompose for overload in _overloads(_COMPOSITES)}
    return made | {o: decomposition_table[o] for o in _overloads(_DEFINED) if o in decomposition_table}


def _overloads(names: list[str]) -> Iterator[OpOverload]:
    for name in names:
        packet = getattr(torch.ops.aten, name)
        for overload in packet.overloads():
            found = getattr(packet, overload)
            if not overload.endswith("out") and torch._C._dispatch_has_kernel(found.name()):
                yield found
