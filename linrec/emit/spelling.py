"""Spelling: how an op is written in PyTorch, as people write it.

torch's own built-in functions take the arguments of the operators they are made from, so `add` is `torch.add` and
`linear` is `F.linear`; slices are written as such; a handful are methods. What has no such name is called as
`torch.ops.aten.name`, its overload looked up at the first call and kept.

A value has no strides here, and a map may lie in memory otherwise than in the original: what asks for strides (`view`,
`view_as_complex`) is written so that any will do.
"""

from __future__ import annotations

import types
from collections.abc import Callable

import torch
import torch.nn.functional as F

from linrec.emit.operators import KERNELS
from linrec.ir import Arg, Op, Type, Use
from linrec.sizes import Size

_METHODS = frozenset("expand new_zeros new_ones new_full new_empty repeat unfold type_as expand_as".split())
_OTHERWISE = frozenset({"index_put", "to", "where_", "full_like", "max_pool1d"})  # their bindings take other arguments
_ATTRIBUTES = {"numpy_T": "T", "mT": "mT", "mH": "mH"}
_SHORT = {"linalg_": "torch.linalg", "fft_": "torch.fft"}
_PYTHON = frozenset("silu mish relu6 hardswish hardsigmoid hardtanh elu selu celu leaky_relu softsign".split())
ATEN = "aten_"  # the name under which an operator without a spelling is known in emitted text


def spelled(op: Op, write: Callable[[Arg], str]) -> str | None:
    """The op as a PyTorch expression, None if it is to be called as one of torch's operators."""
    if op.kind == "alias":
        return write(op.args[0])
    if op.kind == "getitem":
        return f"{write(op.args[0])}[{op.args[1]}]"
    if op.kind == "tensor":
        return _called("torch.tensor", op.args, op, write)
    if op.kind in _ATTRIBUTES and isinstance(op.args[0], Use):
        return f"{write(op.args[0])}.{_ATTRIBUTES[op.kind]}"
    if op.kind in ("slice", "select") and (text := _indexed(op, write)) is not None:
        return text
    if op.kind == "_to_copy" and [k for k, _ in op.attrs] == ["dtype"]:
        return f"{write(op.args[0])}.to({write(op.attrs[0][1])}, copy=True)"
    if op.kind in ("view", "_unsafe_view") and isinstance(op.args[1], tuple):
        return _called("torch.reshape", op.args, op, write)
    if op.kind == "einsum":  # the order of products that torch was told is no argument of its own function
        return f"torch.einsum({write(op.args[0])}, {write(op.args[1])})"
    if op.kind == "view_as_complex":  # under vmap neither a row's strides nor `contiguous` tell of those of all rows
        return f"torch.complex({write(op.args[0])}[..., 0], {write(op.args[0])}[..., 1])"
    if op.kind == "conj_physical" and isinstance(op.type, Type) and op.type.dtype[0] == "c":
        # torch has no batching rule for it: under vmap it would run step by step
        return f"torch.complex({write(op.args[0])}.real, -{write(op.args[0])}.imag)"
    if op.kind == "imag":  # that of a conjugate is a view that has no batching rule either
        return f"{write(op.args[0])}.resolve_conj().imag"
    if op.kind == "select_scatter" and (text := _row_written(op, write)) is not None:
        return text
    if op.kind == "slice_scatter":  # the gradient under vmap overflows for the number that stands for the end
        args = tuple(None if isinstance(a, int) and a >= 1 << 62 else a for a in op.args)
        return _called("torch.slice_scatter", args, op, write)
    if op.kind in _METHODS and isinstance(op.args[0], Use):
        return _called(f"{write(op.args[0])}.{op.kind}", op.args[1:], op, write)
    function = _function(op)
    return None if function is None else _called(function, op.args, op, write)


def _row_written(op: Op, write: Callable[[Arg], str]) -> str | None:
    """A row written as a slice of one: under vmap the gradient of torch's `select_scatter` is that of another axis."""
    if len(op.args) != 4 or op.attrs:
        return None
    into, row, dim, index = op.args
    if not isinstance(dim, int) or not isinstance(index, int | Size):
        return None
    rank = len(op.type.shape) if isinstance(op.type, Type) else 0
    place = f"{dim % rank}, {write(index)}" + ("" if index == -1 else f", {write(index + 1)}")
    return f"torch.slice_scatter({write(into)}, {write(row)}.unsqueeze({dim % rank}), {place})"


def _called(function: str, args: tuple[Arg, ...], op: Op, write: Callable[[Arg], str]) -> str:
    parts = [write(a) for a in args] + [f"{k}={write(a)}" for k, a in op.attrs]
    return f"{function}({', '.join(parts)})"


def _function(op: Op) -> str | None:
    if op.kind in KERNELS:
        return op.kind
    if op.kind in _OTHERWISE or op.kind.endswith("_"):
        return None
    if isinstance(getattr(torch, op.kind, None), types.BuiltinFunctionType):
        return f"torch.{op.kind}"
    if isinstance(getattr(F, op.kind, None), types.BuiltinFunctionType):
        return f"F.{op.kind}"
    if op.kind in _PYTHON and len(op.args) == 1 and not op.attrs:
        return f"F.{op.kind}"
    for prefix, home in _SHORT.items():
        name = op.kind.removeprefix(prefix)
        module = getattr(torch, home.partition(".")[2])
        if name != op.kind and isinstance(getattr(module, name, None), types.BuiltinFunctionType):
            return f"{home}.{name}"
    return None


def _indexed(op: Op, write: Callable[[Arg], str]) -> str | None:
    """x[:, a:b] and x[:, i]."""
    dim = op.args[1] if len(op.args) > 1 else 0
    if not isinstance(dim, int) or dim < 0 or not isinstance(op.args[0], Use) or op.attrs:
        return None
    before = ":, " * dim
    if op.kind == "select":
        return f"{write(op.args[0])}[{before}{write(op.args[2])}]"
    given = [*op.args[2:], None, None, 1]
    start, end, step = given[0], given[1] if len(op.args) > 3 else None, given[2] if len(op.args) > 4 else 1
    if step != 1:
        return None
    first = "" if start in (None, 0) else write(start)
    last = "" if end is None or (isinstance(end, int) and end >= 1 << 62) else write(end)
    return f"{write(op.args[0])}[{before}{first}:{last}]"
