"""Operators: what each op kind runs as."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from linrec.kernels import lti, maps, matrix, scan, semirings

KERNELS: dict[str, Callable[..., Any]] = {
    name: value
    for module in (lti, maps, matrix, scan, semirings)
    for name, value in vars(module).items()
    if name.startswith(("lti_", "map_", "matrix_", "scan_", "semiring_"))
}
_resolved: dict[str, Callable[..., Any]] = {}


class Operator:
    """One of torch's operators by name; the overload is looked up at the first call and kept."""

    __slots__ = ("_call", "_packet", "name")

    def __init__(self, name: str) -> None:
        self.name = name
        self._packet = getattr(torch.ops.aten, name)
        self._call: Callable[..., Any] = self._first

    def _first(self, *args: Any, **kwargs: Any) -> Any:
        overload = torch._C._jit_resolve_packet(self._packet._qualified_op_name, *args, **kwargs)
        self._call = getattr(self._packet, overload or "default")
        return self._call(*args, **kwargs)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._call(*args, **kwargs)


def shifted(signal: torch.Tensor, axis: int, delay: int, before: tuple[Any, ...], backward: bool) -> torch.Tensor:
    """A signal read `delay` steps back: `before[j]` is its value j+1 steps before the first."""
    count = signal.shape[axis]
    row = signal.select(axis, 0) if count else None
    rows = [_row(before[delay - 1 - k], row, signal) for k in range(min(delay, count))]
    head = torch.stack(rows, axis) if rows else signal.narrow(axis, 0, 0)
    if backward:
        return torch.cat([signal.narrow(axis, min(delay, count), max(count - delay, 0)), head.flip(axis)], axis)
    return torch.cat([head, signal.narrow(axis, 0, max(count - delay, 0))], axis)


def _row(value: Any, like: torch.Tensor | None, signal: torch.Tensor) -> torch.Tensor:
    assert like is not None
    if isinstance(value, torch.Tensor):
        return value.to(signal.dtype).expand(like.shape)
    return torch.full(like.shape, value, dtype=signal.dtype, device=signal.device)


def carried(signal: torch.Tensor, axis: int, delay: int, before: tuple[Any, ...], backward: bool) -> Any:
    """What the step after the last would read as signal[-delay]."""
    count = signal.shape[axis]
    if delay > count:
        return before[delay - count - 1]
    return signal.select(axis, delay - 1 if backward else count - delay)


def carried_list(values: list[torch.Tensor], delay: int, before: tuple[Any, ...]) -> Any:
    """The same for values in the order of steps."""
    return values[-delay] if delay <= len(values) else before[delay - len(values) - 1]
