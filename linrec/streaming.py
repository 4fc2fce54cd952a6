"""Streams: a recurrent form that holds its state, for use one step or one chunk at a time."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from linrec.dtypes import LONG
from linrec.errors import StateError
from linrec.recurrence import RecurrentModule
from linrec.rows import require_plain, require_rows
from linrec.states import State, batch_axis, check_batch, is_shared, state_index
from linrec.writes import require_afresh


class Stream:
    """A state kept between calls: `stream.step(x_t)`, `stream(x_chunk)`, `stream.reset(mask)`.

    Memory is that of one state; nothing is recorded for gradients. `stream.state` is a value that may be saved,
    and set again.
    """

    def __init__(self, rnn: RecurrentModule, batch: int) -> None:
        check_batch(batch)
        self.rnn, self.batch = rnn, batch
        self._state: State | None = None
        self._buffers: State | None = None
        self._waiting: Tensor | None = None  # rows that start with their next input
        self._row: list[Tensor] | None = None  # one step of one row, to try things with

    @property
    def state(self) -> State | None:
        """The state, None before the first step. Raises StateError (LR4006) while rows wait for a first input."""
        if self._waiting is not None:
            raise StateError(
                "LR4006", "rows were reset that start with their next input",
                help="take the next step, then read the state",
            )  # fmt: skip
        return self._state

    @state.setter
    def state(self, state: State | None) -> None:
        self._state, self._buffers, self._waiting = state, None, None

    @torch.no_grad()
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """A chunk of steps, tensors with their time axis: the original's results for it."""
        self._begin(args, kwargs, wide=True)
        result, self._state = self.rnn(*args, state=self._state, **kwargs)
        return result

    @torch.no_grad()
    def step(self, *args: Any, **kwargs: Any) -> Any:
        """One step, tensors without their time axis: the original's results for it."""
        self._begin(args, kwargs, wide=False)
        result, self._state = self.rnn.step(*args, state=self._state, **kwargs)
        return result

    @torch.no_grad()
    def step_(self, *args: Any) -> Any:
        """One step that updates the tensors of `stream.state` in place: their addresses stay the same."""
        if self._state is None or self._state is not self._buffers:
            result = self.step(*args)
            assert self._state is not None
            if not self.rnn.program.is_warming(self._state):
                self._state = self._buffers = {name: value.clone() for name, value in self._state.items()}
            return result
        self._begin(args, {}, wide=False)
        result, new = self.rnn.step(*args, state=self._state)
        self._put(new)
        return result

    @torch.no_grad()
    def reset(self, mask: Tensor | None = None) -> None:
        """Start afresh: all rows, or those where `mask` (B,) is true. The others go on untouched.

        Rows whose first state is made from their first input start with the next call. Raises StateError (LR4008) if
        rows have parts in common (a count of steps), depend on each other, or are in the first steps of a program that
        treats these specially; LR4009 if the first state is kept where the program writes.
        """
        if self._state is not None:
            require_afresh(self.rnn.program.begins_in)
        if mask is None:
            self.state = None
            return
        mask = torch.as_tensor(mask)
        if tuple(mask.shape) != (self.batch,) or mask.dtype != torch.bool:
            raise StateError(
                "LR4008", f"the mask is {mask.dtype} {list(mask.shape)}, expected booleans [{self.batch}]",
                help="one entry for each row: mask = torch.tensor([True, False, ...])",
            )  # fmt: skip
        if self._state is None or not bool(mask.any()):
            return
        program, shared = self.rnn.program, [n for n, v in self._state.items() if is_shared(n, v)]
        if self._row is None or shared or program.warmup:
            raise StateError(
                "LR4008", f"rows of this program do not start on their own: {', '.join(shared) or 'its first steps are special'}",
                help="reset all rows, stream.reset(), or keep a stream for each row",
            )  # fmt: skip
        row = self._row_now(self._row)
        self._require_rows(row)
        program = self.rnn.program
        axes = [batch_axis(t) for t in program.types]
        shapes = [[self.batch if i == a else n for i, n in enumerate(x.shape)] for x, a in zip(row, axes, strict=True)]
        first = program.first_of_shapes(shapes)
        if first is not None:
            return self._start(mask, first)
        self._waiting = mask if self._waiting is None else self._waiting | mask

    def rows(self, rows: Tensor | slice | list[int]) -> Stream:
        """A stream that goes on with some rows."""
        chosen = state_index({"row": torch.arange(self.batch)}, rows)["row"]
        new = Stream(self.rnn, chosen.shape[0])
        new._row = self._row
        if self._state is not None:
            new._state = state_index(self._state, rows)
        if self._waiting is not None:
            new._waiting = self._waiting[chosen]
        return new

    def _begin(self, args: Any, kwargs: Any, *, wide: bool) -> None:
        """Before a call: rows that start with it."""
        if self._state is not None and self._row is not None and self._waiting is None:
            return
        tensors = self.rnn.wide(args, kwargs, wide=wide, batch=self.batch)
        program = self.rnn.program
        row = [_cut(x, (batch_axis(t), a)) for x, t, a in zip(tensors, program.types, program.inputs, strict=True)]
        if self._waiting is not None:
            self._require_rows(row)
            mask, self._waiting = self._waiting, None
            self._start(mask, program.first(tensors, program.lengths(tensors, wide=True)))
        self._row = row

    def _row_now(self, row: list[Tensor]) -> list[Tensor]:
        """A row of inputs as the model takes them now: it may have been cast, and the state with it."""
        if not self.rnn.is_current:
            assert self._state is not None
            held = self._state
            now = {
                getattr(torch, LONG[leaf.type.dtype]): held[leaf.name] for leaf in self.rnn.leaves if leaf.name in held
            }
            self.rnn.fit([x.to(now[x.dtype]) if x.dtype in now else x for x in row])
        return [x.to(device, dtype) for x, (dtype, device) in zip(row, self.rnn.program.kinds, strict=True)]

    def _require_rows(self, row: list[Tensor]) -> None:
        """Refuse to start rows that depend on others."""
        program = self.rnn.program
        require_plain(program)
        require_rows(program, row, program.lengths(row, wide=True))

    def _start(self, mask: Tensor, first: State) -> None:
        """Put the first state into some rows."""
        assert self._state is not None
        new = {}
        for name, value in self._state.items():
            rows = mask.to(value.device).view(-1, *(1,) * (value.dim() - 1))
            new[name] = torch.where(rows, first[name].to(value), value)
        self._put(new)

    def _put(self, new: State) -> None:
        """The next state, into the same memory where steps are taken in place."""
        if self._state is None or self._state is not self._buffers:
            self._state = new
            return
        for name, value in new.items():
            self._state[name].copy_(value)


def _cut(x: Tensor, axes: tuple[int | None, ...]) -> Tensor:
    """The first entry along some axes."""
    for axis in axes:
        x = x if axis is None else x.narrow(axis, 0, min(1, x.shape[axis]))
    return x.detach().clone()
