"""States: what a state must be to fit a program and an input, and how its rows are chosen.

A state is a dict of tensors by name, batch first where the program has a batch axis. It is a value: no call changes
it, and nothing in it is broadcast.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from linrec.dtypes import LONG
from linrec.emit.batchfirst import SHARED
from linrec.emit.stateful import Leaf
from linrec.errors import StateError
from linrec.ir import Type
from linrec.sizes import Size, evaluate

State = dict[str, Tensor]
BATCH = "B"


def batch_axis(type_: object) -> int | None:
    """The batch axis of a type, None if it has none."""
    if not isinstance(type_, Type):
        return None
    return next((a for a, d in enumerate(type_.shape) if isinstance(d, Size) and BATCH in d.names), None)


def check(state: object, leaves: Sequence[Leaf], lengths: Mapping[str, int], device: torch.device) -> None:
    """Refuse a state that does not fit, instead of broadcasting or casting it. Raises StateError (LR4001)."""
    names = [leaf.name for leaf in leaves]
    if not isinstance(state, dict) or state.keys() != set(names):
        held = sorted(state, key=str) if isinstance(state, dict) else type(state).__name__
        raise StateError(
            "LR4001", f"the state holds {held}, expected {sorted(names)}", help="pass on the state of the last step"
        )
    for leaf in leaves:
        check_leaf(state[leaf.name], leaf, lengths, device)


def check_batch(batch: object) -> None:
    """Refuse what is no number of rows. Raises StateError (LR4002)."""
    if not isinstance(batch, int) or isinstance(batch, bool) or batch < 0:
        raise StateError("LR4002", f"a batch has a number of rows, got {batch!r}", help="give the size of the batch: 8")


def check_leaf(value: object, leaf: Leaf, lengths: Mapping[str, int], device: torch.device) -> None:
    """One tensor of a state: its shape, element type and device."""
    wanted = tuple(evaluate(d, lengths) if isinstance(d, Size) else d for d in leaf.type.shape)
    if not isinstance(value, Tensor):
        raise StateError(
            "LR4001", f"state['{leaf.name}'] is a {type(value).__name__}, expected a tensor", help="pass on the state of the last step"
        )  # fmt: skip
    if tuple(value.shape) != wanted:
        at = next((i for i, d in enumerate(leaf.type.shape) if isinstance(d, Size) and BATCH in d.names), None)
        if at is not None and value.dim() == len(wanted) and value.shape[at] != wanted[at]:
            raise StateError(
                "LR4001",
                f"the state was made for batch {value.shape[at]}, the input has batch {wanted[at]}"
                f" (state['{leaf.name}']: {tuple(value.shape)})",
                help="start with state=None, or keep the rows that go on: linrec.state_index(state, rows)",
            )
        raise StateError(
            "LR4001", f"state['{leaf.name}'] has shape {tuple(value.shape)}, this input needs {wanted}",
            help="pass on the state of the last step, or start with state=None",
        )  # fmt: skip
    dtype = getattr(torch, LONG[leaf.type.dtype])
    if value.dtype != dtype:
        raise StateError(
            "LR4001", f"state['{leaf.name}'] is {value.dtype}, the program computes it in {dtype}",
            help=f"cast it: {{k: v.to({dtype}) for k, v in state.items()}}, or start with state=None",
        )  # fmt: skip
    if value.device != device:
        raise StateError(
            "LR4001", f"state['{leaf.name}'] is on {value.device}, the input on {device}",
            help="move it: {k: v.to(x.device) for k, v in state.items()}",
        )  # fmt: skip


def state_index(state: State, rows: Tensor | Sequence[int] | slice) -> State:
    """The state of some rows of the batch, in the order given.

    `rows` is anything that indexes the first axis: a list, a tensor of integers or booleans, a slice. What rows have in
    common stays: counters, which have no axis, and what is named `.shared`. Leaves are (B, ...), the result
    (len(rows), ...).
    """
    if isinstance(rows, int):
        raise StateError("LR4001", f"state_index chooses rows, got the number {rows}", help=f"give a list: [{rows}]")
    chosen = (
        rows if isinstance(rows, Tensor | slice) else torch.as_tensor(list(rows) or torch.empty(0, dtype=torch.long))
    )
    return {name: value if is_shared(name, value) else value[chosen] for name, value in state.items()}


def is_shared(name: str, value: Tensor) -> bool:
    """Is a tensor of a state one that the rows of the batch have in common?"""
    return not value.dim() or name.endswith(SHARED)
