"""Element types that meet: inputs of fewer bits than the state take part as the original's do, and results have its type."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import linrec

MEETING = [
    (torch.complex128, torch.float64), (torch.float64, torch.float32), (torch.complex128, torch.float32),
    (torch.complex128, torch.complex64), (torch.float64, torch.int64), (torch.float32, torch.bfloat16),
]  # fmt: skip
Update = Callable[[Tensor, Tensor, Tensor], Tensor]
UPDATES: dict[str, Update] = {
    "add": lambda h, u, w: h + u,
    "subtract": lambda h, u, w: u - h,
    "scaled": lambda h, u, w: torch.add(u, h, alpha=0.5),
    "scaled input": lambda h, u, w: torch.add(h, u, alpha=0.3) + 0.7 * u,
    "weights of the input's type": lambda h, u, w: 0.9 * (h * w.to(u.dtype)) * w.to(u.dtype) + u,
    "fused": lambda h, u, w: torch.addcmul(u, h, w),
    "chosen": lambda h, u, w: torch.where(u.real > 0, h, u),
    "chosen the other way": lambda h, u, w: torch.where(u.real > 0, u, h) + 1,
    "kept": lambda h, u, w: torch.where(w.real > 0.8, 0.9 * h + u, h),
    "joined": lambda h, u, w: torch.cat([h[..., :2], u[..., 2:]], -1) + u,
    "stacked": lambda h, u, w: torch.stack([u, h], -1).mean(-1),
    "gated by the input": lambda h, u, w: h * u.real.to(torch.float32).tanh() + u,
    "mixed": lambda h, u, w: h @ torch.linspace(-0.2, 0.3, 16, dtype=h.dtype).reshape(4, 4) + u,
    "counted": lambda h, u, w: h + u.real.to(torch.int64),
    "a number": lambda h, u, w: h + 1,
}


SAMPLED = [pytest.param(*pair, marks=() if i in (0, 5) else pytest.mark.slow) for i, pair in enumerate(MEETING)]


@pytest.mark.parametrize(("state", "given"), SAMPLED, ids=lambda d: str(d).rpartition(".")[2])
@pytest.mark.parametrize("update", UPDATES)
def test_types_meet_as_in_the_original(update: str, state: torch.dtype, given: torch.dtype) -> None:
    step = UPDATES[update]

    def program(x: Tensor, w: Tensor) -> Tensor:
        h = torch.full((3, 4), 1j if state.is_complex else 0.5, dtype=state)
        ys = []
        for t in range(x.shape[1]):
            h = 0.5 * step(h, x[:, t], w) + x[:, t]
            ys.append(h)
        return torch.stack(ys, 1)

    compiled: Any = linrec.compile(program, verify="off")
    for length in (12, 64):
        torch.manual_seed(length)
        x, w = (3 * torch.randn(3, length, 4, dtype=torch.float64)).to(given), (torch.rand(3, 4) + 0.5).to(state)
        got, want = compiled(x, w), program(x, w)
        bound = 1e-5 if state == torch.float32 else 1e-10
        torch.testing.assert_close(got, want, rtol=bound, atol=bound, msg=lambda m: f"T={length}: {m}")  # noqa: B023
