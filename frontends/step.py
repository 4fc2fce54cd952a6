"""Steps: recurrences declared by what one step does.

`scan` runs a function of (state, x_t), `Recurrent` a cell. Called as they are they run step by step, in O(T) calls of
the step. Under `linrec.compile` one step is traced and its state, inputs and outputs are known from the declaration.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from linrec.errors import ShapeError
from linrec.frontends.loop.declared import numbers

Step = Callable[[Any, Any], tuple[Any, Any]]
_mark = torch.ops.linrec


def scan(step: Step, init: Any, xs: Any, *, reverse: bool = False) -> tuple[Any, Any]:
    """Fold `step` over time: state, y_t = step(state, x_t) for each t, from state = init.

    Args:
        step: a function of the state and of one row of xs; it returns a state of the same kind and an output.
        init: the state before the first step, any pytree of tensors.
        xs: any pytree of tensors (T, ...), time first; x_t is the same pytree of tensors (...).
        reverse: visit t = T-1 .. 0; outputs stay where their inputs are.

    Returns:
        (state after the last step, ys), ys being the pytree that the step returns with T as first axis.

    Raises ShapeError where xs has no time axis or several lengths (LR0503), and where the state after a step differs
    from the state before it in structure, shape, dtype or device (LR0504). With T = 0 the state is `init`.
    """
    rows, row_spec = pytree.tree_flatten(xs)
    length = _length(rows)
    counter = numbers.get()
    if counter is not None:
        return _recorded(step, init, rows, row_spec, length, next(counter), reverse)
    if length == 0:
        _, y = step(init, pytree.tree_unflatten([_row(x, None) for x in rows], row_spec))
        return init, pytree.tree_map(lambda leaf: leaf if leaf is None else leaf.new_empty(0, *leaf.shape), y)
    state, ys = init, []
    for t in reversed(range(length)) if reverse else range(length):
        new, y = _result(step(state, pytree.tree_unflatten([_row(x, t) for x in rows], row_spec)))
        _require_same(state, new)
        state = new
        ys.append(y)
    if reverse:
        ys.reverse()
    return state, pytree.tree_map(lambda *leaves: None if leaves[0] is None else torch.stack(leaves), *ys)


def _recorded(
    step: Step, init: Any, rows: list[Any], row_spec: pytree.TreeSpec, length: int, number: int, reverse: bool
) -> tuple[Any, Any]:
    """The same as one traced step between marks; a scan inside of the step runs as a loop."""
    states, spec = pytree.tree_flatten(init)
    before = [s if s is None else _mark.previous(s, number, slot) for slot, s in enumerate(states)]
    given = [x if x is None else _mark.element(x, number, length, reverse) for x in rows]
    token = numbers.set(None)
    try:
        new, y = _result(step(pytree.tree_unflatten(before, spec), pytree.tree_unflatten(given, row_spec)))
    finally:
        numbers.reset(token)
    _require_same(init, new)
    after = pytree.tree_leaves(new)
    final = [s if s is None else _mark.final(s, number, slot) for slot, s in enumerate(after)]
    stacked = pytree.tree_map(lambda leaf: leaf if leaf is None else _mark.stacked(leaf, number, length), y)
    return pytree.tree_unflatten(final, spec), stacked


def _row(x: Any, t: int | None) -> Any:
    if x is None:
        return None
    return x.new_zeros(x.shape[1:]) if t is None else x[t]


def _length(rows: list[Any]) -> int:
    """The one length of all leaves."""
    lengths: list[int] = []
    for x in rows:
        if x is None:
            continue
        if not isinstance(x, Tensor) or x.dim() == 0:
            held = "a tensor without axes" if isinstance(x, Tensor) else f"a {type(x).__name__}"
            raise ShapeError(
                "LR0503", f"xs holds {held}, which has no time axis",
                help="give tensors (T, ...); what does not vary over time is read by the step directly",
            )  # fmt: skip
        lengths.append(x.shape[0])
    if len(set(lengths)) != 1:
        shown = ", ".join(map(str, lengths)) or "nothing"
        raise ShapeError(
            "LR0503", f"the leaves of xs have one length, got {shown}",
            help="time is axis 0 of every leaf: x.transpose(0, 1) for (batch, T, ...)",
        )  # fmt: skip
    return lengths[0]


def _result(result: Any) -> tuple[Any, Any]:
    if not isinstance(result, tuple) or len(result) != 2:
        raise ShapeError(
            "LR0504", f"the step returns {_kind(result)}, not a pair (state, output)", help="return state, y_t"
        )
    return result


def _kind(value: Any) -> str:
    return f"a tuple of {len(value)}" if isinstance(value, tuple) else f"a {type(value).__name__}"


def _require_same(before: Any, after: Any) -> None:
    """A state keeps its kind, or one step could not follow another."""
    (old, old_spec), (new, new_spec) = pytree.tree_flatten_with_path(before), pytree.tree_flatten_with_path(after)
    if old_spec != new_spec:
        raise ShapeError(
            "LR0504", f"the state is {old_spec} before a step and {new_spec} after it",
            help="return the state as the same pytree as init",
        )  # fmt: skip
    for (path, a), (_, b) in zip(old, new, strict=True):
        place = f"state{pytree.keystr(path)}"
        if a is None and b is None:
            continue
        if not isinstance(a, Tensor) or not isinstance(b, Tensor):
            held = a if not isinstance(a, Tensor) else b
            raise ShapeError(
                "LR0504", f"{place} holds {_kind(held)}, not a tensor", help="write torch.tensor(...) for numbers"
            )
        if (a.shape, a.dtype, a.device) != (b.shape, b.dtype, b.device):
            raise ShapeError(
                "LR0504", f"{place} is {_type(a)} before a step and {_type(b)} after it",
                help="give init the shape and dtype that the step returns",
            )  # fmt: skip


def _type(x: Tensor) -> str:
    return f"{str(x.dtype).removeprefix('torch.')}{list(x.shape)} on {x.device}"


def operator_scan(
    step: Callable[..., Any], init: Sequence[Tensor], xs: Sequence[Tensor], additional: Sequence[Any] = ()
) -> list[Any]:
    """torch's scan operator: step(*state, *x_t, *additional) returns (*state, *y_t); so does this after all steps."""

    def one(state: list[Tensor], x_t: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        results = list(step(*state, *x_t, *additional))
        return results[: len(init)], results[len(init) :]

    state, ys = scan(one, list(init), list(xs))
    return [*state, *ys]


class Recurrent(nn.Module):
    """A cell run over a sequence: (batch, T, features) -> (outputs (batch, T, ...), state after the last step).

    The cell is one of torch's (`nn.RNNCell`, `nn.GRUCell`, `nn.LSTMCell`: hidden = cell(x_t, hidden), zeros at first), or
    any module that maps (x_t, state) to (y_t, state) and takes state=None as its start.

    Args:
        cell: the module that does one step; it is shared, not copied.
        reverse: run from the last step to the first.
        bidirectional: run a second cell of the same kind, `cell_reverse`, with weights of its own, the other way, and
            join the outputs along their last axis; the state is then the pair of both.
    """

    def __init__(self, cell: nn.Module, *, reverse: bool = False, bidirectional: bool = False) -> None:
        super().__init__()
        self.cell = cell
        self.reverse = reverse
        self.bidirectional = bidirectional
        if bidirectional:
            self.cell_reverse = copy.deepcopy(cell)
            for module in self.cell_reverse.modules():
                reset: Any = getattr(module, "reset_parameters", None)
                if reset is not None:
                    reset()

    def forward(self, x: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """Run over all steps of x (batch, T, ...), from `state` or afresh."""
        if not self.bidirectional:
            return _over(self.cell, x, state, self.reverse)
        first, second = (None, None) if state is None else state
        there, left = _over(self.cell, x, first, self.reverse)
        back, right = _over(self.cell_reverse, x, second, not self.reverse)
        return torch.cat([there, back], -1), (left, right)

    def extra_repr(self) -> str:
        """The direction, for print(module)."""
        return f"reverse={self.reverse}, bidirectional={self.bidirectional}"


def _over(cell: nn.Module, x: Tensor, state: Any, reverse: bool) -> tuple[Tensor, Any]:
    if x.dim() < 2:
        raise ShapeError("LR0503", f"x is (batch, T, ...), got {list(x.shape)}", help="add the missing axes")
    if isinstance(cell, nn.RNNCellBase):
        if state is None:
            zeros = x.new_zeros(x.shape[0], cell.hidden_size)
            state = (zeros, zeros) if isinstance(cell, nn.LSTMCell) else zeros
        state, ys = scan(lambda s, x_t: _hidden(cell(x_t, s)), state, x.transpose(0, 1), reverse=reverse)
        return ys.transpose(0, 1), state
    if state is not None:
        state, ys = scan(lambda s, x_t: _swapped(cell(x_t, s)), state, x.transpose(0, 1), reverse=reverse)
        return ys.transpose(0, 1), state
    # only the cell knows the state it starts from, so this is a loop like any other
    outputs: list[Tensor] = []
    for t in reversed(range(x.shape[1])) if reverse else range(x.shape[1]):
        y, state = cell(x[:, t], state)
        outputs.append(y)
    return torch.stack(outputs[::-1] if reverse else outputs, 1), state


def _hidden(state: Any) -> tuple[Any, Tensor]:
    return state, state[0] if isinstance(state, tuple) else state


def _swapped(result: Any) -> tuple[Any, Any]:
    y, state = _result(result)
    return state, y
