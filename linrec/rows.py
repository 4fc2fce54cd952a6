"""Rows of a batch that do not depend on each other, shown by experiment.

One row of the inputs is replaced: by its steps in another order and a thousand times as large, by other numbers, by
NaN. The oracle then computes every op twice, and no other row of any value may change by a single bit. NaN passes
through every sum, product, maximum, order and permutation, so an op that lets one row touch another is seen and named.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from linrec.emit.operators import KERNELS
from linrec.errors import FAILURES, StateError
from linrec.interpret import interpret
from linrec.ir import Graph, Op, Source, Type
from linrec.program import Recurring
from linrec.sizes import size
from linrec.states import BATCH, batch_axis

_ROWS, _CHANGED = 5, 1  # so that neither a flip nor a shift leaves the changed row where it is
_STEPS = 3  # beyond those that are special


@torch.no_grad()
def require_rows(program: Recurring, row: Sequence[Tensor], sizes: Mapping[str, int]) -> None:
    """Refuse, tried once for each program, one in which a row of the batch depends on others.

    Args:
        program: the program.
        row: its arguments for one row, a batch of one with at least one step: numbers that it can run on.
        sizes: its named lengths.

    Raises StateError (LR4008) that names the first op through which rows meet.
    """
    if program.rows_are_apart:
        return
    lengths = {**sizes, BATCH: _ROWS, "T": program.warmup + _STEPS}
    plain = [_many(x, program, n) for n, x in enumerate(row)]
    state = program.first(plain, lengths) if not program.warmup else None
    for graph in (program.start_graph, *([] if state is None else [program.graph])):
        leaves = [] if state is None else [state[leaf.name] for leaf in program.leaves]
        base = dict(zip((i.name for i in graph.inputs), [*plain, *program.values(), *leaves], strict=False))
        ran = False
        for change in (_turned, _other, _lost):
            changed = {i.name: _replaced(base[i.name], batch_axis(i.type), change) for i in graph.inputs}
            try:
                before, after = _values(graph, base), _values(graph, changed)
            except FAILURES:  # not every program takes any number: what it takes is judged
                continue
            ran = True
            for (op, old), (_, new) in zip(before, after, strict=True):
                if op.type is not None and _differ(old, new, op.type):
                    raise _mixed(f"`{op.kind}` mixes the rows of the batch", op.source)
        if not ran:
            raise _mixed("no experiment shows that the rows of the batch do not depend on each other", None)
    program.rows_are_apart = True


def require_plain(program: Recurring, *others: object) -> None:
    """Refuse rows that are one axis with others in the state, in arguments or in `others`: StateError (LR4008)."""
    for type_ in (*program.types, *others, *(leaf.type for leaf in program.leaves)):
        axis = batch_axis(type_)
        if axis is not None and isinstance(type_, Type) and type_.shape[axis] != size(BATCH):
            raise _mixed(f"the rows of the batch are one axis with others: {type_}", None)


def _mixed(fact: str, place: Source | None) -> StateError:
    return StateError(
        "LR4008", f"{fact}, so rows cannot end or start on their own",
        file=place.file if place else None, line=place.line if place else None,
        help="keep rows apart inside the model: take means over the batch outside it",
    )  # fmt: skip


def _many(x: Tensor, program: Recurring, n: int) -> Tensor:
    """Rows that hold the steps of one row, each from another step on."""
    batch, time, x = batch_axis(program.types[n]), program.inputs[n], x.detach()
    if time is not None:
        steps = torch.arange(program.warmup + _STEPS, device=x.device)
        x = x.index_select(time, steps % x.shape[time])
    if batch is None:
        return x
    rows = [x if time is None else x.roll(r, time) for r in range(_ROWS)]
    return torch.cat(rows, batch)


def _replaced(value: Any, axis: int | None, change: Callable[[Tensor], Tensor]) -> Any:
    if axis is None or not isinstance(value, Tensor):
        return value
    value = value.clone()
    part = value.narrow(axis, _CHANGED, 1)
    part.copy_(change(part.clone()))
    return value


def _turned(row: Tensor) -> Tensor:
    found = row.flatten().flip(0).view(row.shape) if row.numel() else row
    return found * 1000 + 7 if row.is_floating_point() or row.is_complex() else found


def _other(row: Tensor) -> Tensor:
    return torch.randn_like(row) if row.is_floating_point() or row.is_complex() else _turned(row)


def _lost(row: Tensor) -> Tensor:
    return torch.full_like(row, float("nan")) if row.is_floating_point() or row.is_complex() else _turned(row)


def _values(graph: Graph, inputs: Mapping[str, Any]) -> list[tuple[Op, Any]]:
    """Every value that is computed, in order; the same random numbers each time."""
    seen: list[tuple[Op, Any]] = []
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        interpret(graph, inputs, kernels=KERNELS, watch=lambda op, value: seen.append((op, value)))
    return seen


def _differ(old: Any, new: Any, type_: object) -> bool:
    """Has a value changed in rows other than the replaced one?"""
    if isinstance(old, tuple | list):
        types = type_ if isinstance(type_, tuple) else (type_,) * len(old)
        return any(_differ(*parts) for parts in zip(old, new, types, strict=True))
    if not isinstance(old, Tensor):
        return bool(old != new)
    axis = batch_axis(type_)
    if axis is not None and isinstance(type_, Type):
        axis -= len(type_.shape) - old.dim()  # narrower where it is made of a number still: h = 0 before the first step
    if axis is None or axis < 0:
        return not _equal(old, new)
    if isinstance(type_, Type) and type_.shape[axis] != size(BATCH):
        return False  # rows and others in one axis, in an order that what sets them apart again shows
    after = _CHANGED + 1
    return any(
        not _equal(old.narrow(axis, start, count), new.narrow(axis, start, count))
        for start, count in ((0, _CHANGED), (after, _ROWS - after))
    )


def _equal(old: Tensor, new: Tensor) -> bool:
    """Bit for bit, one NaN like another."""
    return torch.equal(old.isnan(), new.isnan()) and torch.equal(old.nan_to_num(), new.nan_to_num())
