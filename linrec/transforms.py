"""Transforms of torch.func around a call: what is inside them, and how to step outside for a while.

`vmap`, `grad`, `jvp` and their kin wrap the tensors of a call and keep a stack of interpreters. What linrec finds out
about a program (traces, proofs backed by numbers, the check against the original) has no part in the transform, so it
leaves the stack and takes the tensors that are inside the wrappers: of a batch the first member.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from torch._C import _functorch
from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack
from torch.autograd import forward_ad


def is_transformed() -> bool:
    """Does a transform of torch.func or forward-mode differentiation look on? These ask no tensor whether it wants one."""
    level: int = forward_ad._current_level
    return level >= 0 or _functorch.peek_interpreter_stack() is not None


def is_wrapped(x: Any) -> bool:
    """Is it a tensor that a transform has wrapped?"""
    return isinstance(x, Tensor) and bool(_functorch.is_functorch_wrapped_tensor(x))


@contextmanager
def outside(spaces: Iterable[dict[str, Any]] = ()) -> Iterator[None]:
    """No transform in this context; the tensors held in `spaces` (those of modules) are the ones inside their wrappers."""
    wrapped = [(space, name, x) for space in spaces for name, x in space.items() if is_wrapped(x)]
    with temporarily_clear_interpreter_stack():
        inside = {id(x): unwrapped(x) for _, _, x in wrapped}  # tied parameters stay tied
        for space, name, x in wrapped:
            space[name] = inside[id(x)]
        try:
            yield
        finally:
            for space, name, x in wrapped:
                space[name] = x


def unwrapped(x: Tensor) -> Tensor:
    """The tensor inside all wrappers, of the shape that the program sees, as a leaf. To be called `outside`."""
    if not is_wrapped(x) and forward_ad._current_level < 0:
        return x
    axes: list[int] = []
    is_needed = x.requires_grad
    while is_wrapped(x):
        if _functorch.is_batchedtensor(x):
            axes.append(_functorch.maybe_get_bdim(x))
        x = _functorch.get_unwrapped(x)
    if forward_ad._current_level >= 0:
        unpack: Any = forward_ad.unpack_dual
        x = unpack(x).primal
    for axis in reversed(axes):
        x = x.select(axis, 0)
    return x.detach().requires_grad_(is_needed)
