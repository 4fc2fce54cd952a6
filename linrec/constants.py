"""Constants kept between calls: impulse responses and whatever else depends on parameters alone.

An entry is used again only while its sources are equal, number by number, to what it was computed from: a
version counter misses `p.data.mul_(...)`, a comparison does not, and costs one read of the parameters. Sources that
need a gradient are never cached.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn import Parameter

from linrec import native

_KEPT = 8  # lengths for which results are kept


class Cached:
    """A function of (sources..., lengths...) that remembers its last results by length."""

    def __init__(self, function: Callable[..., Any], sources: int) -> None:
        self._function, self._sources = function, sources
        self._entries: dict[tuple[Any, ...], tuple[list[Tensor], Any]] = {}

    def __call__(self, *arguments: Any) -> Any:
        sources, lengths = arguments[: self._sources], arguments[self._sources :]
        if (torch.is_grad_enabled() and any(s.requires_grad for s in sources)) or _is_transformed(sources):
            return self._function(*arguments)
        key = (lengths, torch.is_inference_mode_enabled(), *((s.dtype, s.device) for s in sources))
        entry = self._entries.get(key)
        if entry is not None and all(map(_are_same, entry[0], sources)):
            return entry[1]
        with torch.no_grad():
            result = self._function(*arguments)
        if len(self._entries) >= _KEPT and key not in self._entries:
            self._entries.pop(next(iter(self._entries)))
        self._entries[key] = ([s.detach().clone() for s in sources], result)
        return result


def _are_same(a: Tensor, b: Tensor) -> bool:
    """Are these the same numbers? Bit by bit where they lie in memory as one piece: zeros of two signs differ."""
    library = native.kernels()
    if library is not None and a.device.type == b.device.type == "cpu" and a.dtype is b.dtype and a.shape == b.shape:
        if (
            a.is_contiguous()
            and b.is_contiguous()
            and not (b.is_conj() or b.is_neg())
            and type(b) in (Tensor, Parameter)
        ):
            return bool(library.same_bytes(a.data_ptr(), b.data_ptr(), b.nbytes))
    return torch.equal(a, b)


def _is_transformed(sources: tuple[Tensor, ...]) -> bool:
    """Under torch.func transforms or forward-mode differentiation nothing may be kept."""
    level: int = forward_ad._current_level
    if level < 0:  # no tensor has a tangent
        return any(torch._C._functorch.is_functorch_wrapped_tensor(s) for s in sources)
    unpack: Any = forward_ad.unpack_dual
    return any(torch._C._functorch.is_functorch_wrapped_tensor(s) or unpack(s).tangent is not None for s in sources)
