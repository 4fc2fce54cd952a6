"""Probes: how much work a call does at other sizes, found by running the program itself on small copies.

A probe says no more than how many operators a call makes; it serves to guess which axes are time and which sizes may
vary, and the traces that follow decide. It costs the program's own operators (5 us each where they are small) in place
of a trace's (1 ms), up to a limit, and leaves nothing behind: numbers, attributes and generators are put back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from linrec.errors import CaptureError, ProgramError, trial
from linrec.frontends.loop.environment import Environment, Restored
from linrec.frontends.loop.trace import declared_scan, opaque_functions, scans_numbered

_ELEMENT = (torch.ops.linrec.element, torch.ops.linrec.element.default)


class _TooLong(BaseException):
    """More operators than asked for; no handler of the program's own may catch it."""


@dataclass(frozen=True)
class Work:
    """Calls of torch's functions, and steps of declared scans, of which one is run."""

    calls: int
    declared: int

    @property
    def total(self) -> int:
        """Both together."""
        return self.calls + self.declared


class _Counter(TorchFunctionMode):
    def __init__(self, limit: int) -> None:
        super().__init__()
        self.limit, self.calls, self.declared = limit, 0, 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls += getattr(func, "__name__", "") != "__get__"  # shapes and the like are no work
        if self.calls > self.limit:
            raise _TooLong
        if func in _ELEMENT:
            self.declared += args[2]
        declared = declared_scan(func)
        if declared is not func:
            with self:  # what it does is counted too
                return declared(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


@dataclass
class Probe:
    """Trial runs of one call; remembered by sizes."""

    function: Callable[..., Any]
    environment: Environment
    args: Any
    kwargs: Any
    known: dict[tuple[tuple[int, ...], ...], Work | None] = field(default_factory=dict)
    cut: dict[tuple[tuple[int, ...], ...], int] = field(default_factory=dict)  # after how many calls, if cut off
    kept: list[tuple[Tensor, Tensor]] | None = None

    def work(self, shapes: Sequence[tuple[int, ...]], limit: int) -> Work | None:
        """What the call does with its tensors of these shapes; None if it fails, or makes more than `limit` calls."""
        key = tuple(shapes)
        if key not in self.known or limit > self.cut.get(key, limit):
            self.cut.pop(key, None)
            self.known[key] = self._run(key, limit)
        return self.known[key]

    def _run(self, shapes: tuple[tuple[int, ...], ...], limit: int) -> Work | None:
        leaves, spec = pytree.tree_flatten((self.args, self.kwargs))
        sizes = iter(shapes)
        counter = _Counter(limit)
        if self.kept is None:
            tensors = {id(x): x for get in self.environment.tensors.values() if isinstance(x := get(), Tensor)}
            self.kept = [(x, x.detach().clone()) for x in tensors.values()]
        versions = [_version(x) for x, _ in self.kept]
        try:
            with torch.no_grad(), Restored(self.environment), opaque_functions(), scans_numbered(), trial():
                given = [resized(leaf, next(sizes)) if isinstance(leaf, Tensor) else leaf for leaf in leaves]
                args, kwargs = pytree.tree_unflatten(given, spec)
                with counter:
                    self.function(*args, **kwargs)
        except (ProgramError, CaptureError):
            return None  # why it cannot be captured is for a trace to say
        except _TooLong:
            self.cut[shapes] = limit
            return None
        finally:
            with torch.no_grad():
                for (x, numbers), version in zip(self.kept, versions, strict=True):
                    if _version(x) != version:
                        x.copy_(numbers)
        return Work(counter.calls, counter.declared)


def _version(x: Tensor) -> int:
    return -1 if x.is_inference() else x._version


def resized(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """A copy of that shape: the first rows along each axis, over again where there are too few."""
    x = x.detach()
    for axis, length in enumerate(shape):
        if length <= x.shape[axis]:
            x = x.narrow(axis, 0, length)
        else:
            x = x.index_select(axis, torch.arange(length, device=x.device) % x.shape[axis])
    return x.clone()
