"""Streams: a recurrent form that holds its state, for use one step or one chunk at a time."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from linrec.errors import StateError
from linrec.recurrence import RecurrentModule
from linrec.states import State, check_batch, state_index


class Stream:
    """A state kept between calls: `stream.step(x_t)`, `stream(x_chunk)`, `stream.reset(mask)`.

    Memory is that of one state; nothing is recorded for gradients. `stream.state` is a value that may be saved,
    and set again.
    """

    def __init__(self, rnn: RecurrentModule, batch: int) -> None:
        check_batch(batch)
        self.rnn, self.batch = rnn, batch
        self._first: State | None = None
        self.state: State | None = None
        self._buffers: State | None = None

    @torch.no_grad()
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """A chunk of steps, tensors with their time axis: the original's results for it."""
        self._keep_first(args, kwargs, wide=True)
        result, self.state = self.rnn(*args, state=self.state, **kwargs)
        return result

    @torch.no_grad()
    def step(self, *args: Any, **kwargs: Any) -> Any:
        """One step, tensors without their time axis: the original's results for it."""
        self._keep_first(args, kwargs, wide=False)
        result, self.state = self.rnn.step(*args, state=self.state, **kwargs)
        return result

    @torch.no_grad()
    def step_(self, *args: Any) -> Any:
        """One step that updates the tensors of `stream.state` in place: their addresses stay the same."""
        if self.state is None or self.state is not self._buffers:
            result = self.step(*args)
            assert self.state is not None
            if not self.rnn.program.is_warming(self.state):
                self.state = self._buffers = {name: value.clone() for name, value in self.state.items()}
            return result
        result, new = self.rnn.step(*args, state=self.state)
        for name, value in new.items():
            self.state[name].copy_(value)
        return result

    def reset(self, mask: Tensor | None = None) -> None:
        """Start afresh: all rows, or those where `mask` (B,) is true. The others go on untouched.

        Raises StateError (LR4008) if rows have parts in common (a count of steps), or are in the first steps of a
        program that treats these specially.
        """
        if mask is None:
            self.state = self._buffers = None
            return
        mask = torch.as_tensor(mask)
        if tuple(mask.shape) != (self.batch,) or mask.dtype != torch.bool:
            raise StateError(
                "LR4008", f"the mask is {mask.dtype} {list(mask.shape)}, expected booleans [{self.batch}]",
                help="one entry for each row: mask = torch.tensor([True, False, ...])",
            )  # fmt: skip
        if self.state is None or not bool(mask.any()):
            return
        first = self._first
        shared = [n for n, v in self.state.items() if not v.dim()]
        if first is None or shared or self.rnn.program.warmup:
            raise StateError(
                "LR4008", f"rows of this program do not start on their own: {', '.join(shared) or 'its first steps are special'}",
                help="reset all rows, stream.reset(), or keep a stream for each row",
            )  # fmt: skip
        new = {}
        for name, value in self.state.items():
            rows = mask.to(value.device).view(-1, *(1,) * (value.dim() - 1))
            new[name] = torch.where(rows, first[name].to(value), value)
        if self.state is self._buffers:
            for name, value in new.items():
                self.state[name].copy_(value)
        else:
            self.state = new

    def rows(self, rows: Tensor | slice | list[int]) -> Stream:
        """A stream that goes on with some rows."""
        new = Stream(self.rnn, state_index({"row": torch.arange(self.batch)}, rows)["row"].shape[0])
        if self.state is not None:
            new.state = state_index(self.state, rows)
        return new

    def _keep_first(self, args: Any, kwargs: Any, *, wide: bool) -> None:
        if self._first is None:
            self._first = self.rnn.first_state(args, kwargs, wide=wide, batch=self.batch)
