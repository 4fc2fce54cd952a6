"""Numbers that a program takes out of tensors of outside: it follows them, or runs as written."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import linrec

READS: dict[str, Callable[[Tensor], float]] = {
    "item": lambda s: float(s[0].item()),
    "float": lambda s: float(s.sum()),
    "branch": lambda s: 0.9 if s[0] > 0.6 else 0.3,
    "list": lambda s: float(s.tolist()[0]),
    "numpy": lambda s: float(s.numpy()[0]),
    "equal": lambda s: 0.1 if torch.equal(s, torch.tensor([0.5, 0.25])) else 0.7,
    "text": lambda s: 0.1 if "0.5" in str(s) else 0.7,
}


@pytest.mark.parametrize("name", READS)
def test_a_program_follows_the_numbers_it_reads(name: str) -> None:
    scale, read = torch.tensor([0.5, 0.25]), READS[name]

    def scaled(x: Tensor) -> Tensor:
        h = torch.zeros_like(x[:, 0])
        for t in range(x.shape[1]):
            h = h * read(scale) + x[:, t]
        return h

    made = linrec.compile(scaled, verify="off")
    x = torch.randn(2, 12, 4)
    for values in ([0.5, 0.25], [0.9, 0.1], [0.5, 0.25], [0.2, 0.7]):
        scale.copy_(torch.tensor(values))
        torch.testing.assert_close(made(x), scaled(x))


def test_one_capture_serves_while_the_numbers_stay() -> None:
    rate = torch.tensor(0.5)

    def scaled(x: Tensor) -> Tensor:
        h = torch.zeros_like(x[:, 0])
        for t in range(x.shape[1]):
            h = h * rate.item() + x[:, t]
        return h

    made = linrec.compile(scaled, verify="off")
    for steps in (12, 30, 64):
        x = torch.randn(2, steps, 4)
        torch.testing.assert_close(made(x), scaled(x))
    assert linrec.report(made).captures == 1
    rate.fill_(0.25)
    torch.testing.assert_close(made(x), scaled(x))
    rate.fill_(0.5)
    torch.testing.assert_close(made(x), scaled(x))
    assert linrec.report(made).captures == 2


def test_a_number_read_from_what_the_call_changes_is_refused() -> None:
    class Counting(torch.nn.Module):
        calls: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            h = torch.zeros_like(x[:, 0])
            for t in range(x.shape[1]):
                h = h / (1 + self.calls.item()) + x[:, t]
            return h

    plain, made = Counting(), linrec.compile(Counting(), verify="off")
    x = torch.randn(2, 12, 4)
    for _ in range(3):
        torch.testing.assert_close(made(x), plain(x))
    assert linrec.report(made).code == "LR0302"
