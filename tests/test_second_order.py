"""Gradients that are differentiated again, where what a kernel saved is made of one another: nothing counts twice."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import linrec


def modes(x: Tensor, w: Tensor) -> Tensor:
    """What reads the modes is made of their decays."""
    a = torch.exp(torch.complex(-w.exp(), w))  # three modes for each of three channels
    c = w * (a - 1)
    h, ys = torch.zeros(len(x), 3, 3, dtype=a.dtype), []
    for t in range(x.shape[1]):
        h = a * h + x[:, t].unsqueeze(-1)
        ys.append(torch.einsum("cn,bcn->bc", c, h).real)
    return torch.stack(ys, 1)


def tied_layers(x: Tensor, w: Tensor) -> Tensor:
    """The second layer's input is made of the first one's response."""
    for _ in range(2):
        h, ys = torch.zeros_like(x[:, 0]), []
        for t in range(x.shape[1]):
            h = 0.3 * h @ w + x[:, t]
            ys.append(h)
        x = torch.stack(ys, 1).sin()
    return x


@pytest.mark.parametrize("form", ["auto", "convolution", "chunked", "scan"])
@pytest.mark.parametrize("program", [modes, tied_layers])
def test_gradients_of_gradients(program: Callable[[Tensor, Tensor], Tensor], form: str) -> None:
    compiled = linrec.compile(program, forms=form, verify="off")
    for steps in (12, 2, 40):
        generator = torch.Generator().manual_seed(steps)
        x, w = (torch.randn(*s, dtype=torch.float64, generator=generator) for s in ((2, steps, 3), (3, 3)))
        found = []
        for call in (program, compiled):
            leaves = [x.clone().requires_grad_(), w.clone().requires_grad_()]
            first = torch.autograd.grad(call(*leaves).cos().sum(), leaves, create_graph=True)
            second = torch.autograd.grad(torch.stack([g.sin().sum() for g in first]).sum(), leaves)
            found.append([*first, *second])
        for got, want in zip(found[1], found[0], strict=True):
            torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9)
