"""What a case is: a program and the inputs it takes, in one of three tables."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Spec(NamedTuple):
    """How one argument is drawn: its shape (B and T stand for batch and steps) and its distribution."""

    shape: tuple[str | int, ...]
    low: float | None = None
    scale: float = 1.0
    dtype: torch.dtype = torch.float64


def like_x(*shape: str | int) -> Spec:
    """A standard normal signal."""
    return Spec(shape)


def decay(*shape: str | int) -> Spec:
    """Uniform in 0.3 .. 0.95."""
    return Spec(shape, low=0.3, scale=0.65)


def small(*shape: str | int) -> Spec:
    """A matrix with a spectral radius well below one."""
    return Spec(shape, scale=0.3)


def mask(*shape: str | int) -> Spec:
    """Booleans."""
    return Spec(shape, dtype=torch.bool)


@dataclass(frozen=True)
class Case:
    """One program: how to make it and what to call it with."""

    name: str
    make: Callable[[], Any]
    specs: tuple[Spec, ...]

    def args(self, batch: int, steps: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> tuple[Tensor, ...]:
        """Inputs for a batch size and a length; the same for the same seed."""
        draw = torch.Generator().manual_seed(1000 * batch + steps + seed)
        sizes = {"B": batch, "T": steps}
        args = []
        for spec in self.specs:
            shape = [sizes[s] if isinstance(s, str) else s for s in spec.shape]
            if spec.dtype == torch.bool:
                args.append(torch.rand(shape, generator=draw) > 0.4)
                continue
            made = spec.dtype if spec.dtype.is_complex else torch.float64
            if spec.low is None:
                value = torch.randn(shape, generator=draw, dtype=made) * spec.scale
            else:
                value = torch.rand(shape, generator=draw, dtype=made) * spec.scale + spec.low
            args.append((value if spec.dtype.is_complex else value.to(dtype)).requires_grad_())
        return tuple(args)


LTI: dict[str, Case] = {}
LTV: dict[str, Case] = {}
NONLINEAR: dict[str, Case] = {}


def _into(table: dict[str, Case], specs: tuple[Spec, ...]) -> Callable[[Any], Any]:
    def register(model: Any) -> Any:
        name = model.__name__

        def make() -> Any:
            if not isinstance(model, type):
                return model
            state = torch.get_rng_state()
            torch.manual_seed(7)
            made = model().double()
            torch.set_rng_state(state)
            return made

        assert name not in table
        table[name] = Case(name, make, specs)
        return model

    return register


def lti(*specs: Spec) -> Callable[[Any], Any]:
    """Every recurrence of the program is linear and time-invariant."""
    return _into(LTI, specs)


def ltv(*specs: Spec) -> Callable[[Any], Any]:
    """Every recurrence is linear, at least one varies with time."""
    return _into(LTV, specs)


def nonlinear(*specs: Spec) -> Callable[[Any], Any]:
    """At least one recurrence is not linear in its state."""
    return _into(NONLINEAR, specs)


X = like_x("B", "T", 3)
D = decay(3)
A = small(3, 3)


Z = Spec((3,), scale=0.4, dtype=torch.complex128)


def zeros(x: Tensor) -> Tensor:
    """A zero state for x of shape (B, T, d)."""
    return torch.zeros(x.shape[0], x.shape[2], dtype=x.dtype)
