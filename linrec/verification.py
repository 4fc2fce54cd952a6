"""Verification: the compiled program against the original, on the first call, on at most 64 steps.

Values always, gradients too when they are on. What is allowed is rounding: a multiple of the element type's
epsilon times the size of the numbers at hand.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from linrec.reports import Verification

STEPS = 64
_INEXACT = frozenset({torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex128, torch.complex64})
VALUES = 2e3  # allowed error of values, in units of epsilon times the largest number
GRADIENTS = 2e4


def compare(
    original: Callable[..., list[Any]],
    compiled: Callable[..., list[Any]],
    inputs: Sequence[Tensor],
    parameters: Sequence[Tensor],
    steps: int,
) -> Verification:
    """Run both on copies of `inputs` and compare all outputs and, if gradients are on, all gradients."""
    started = time.perf_counter()
    gradients = torch.is_grad_enabled()
    state = torch.get_rng_state()
    wanted, wanted_grads = _run(original, inputs, parameters, gradients)
    torch.set_rng_state(state)
    found, found_grads = _run(compiled, inputs, parameters, gradients)
    torch.set_rng_state(state)
    # numbers are as exact as the coarsest type that they may have passed through
    floats = [x for x in (*wanted, *inputs, *parameters) if isinstance(x, Tensor) and x.dtype in _INEXACT]
    eps = max((torch.finfo(x.dtype).eps for x in floats), default=0.0)
    error, allowed, note = _worst(zip(wanted, found, strict=True), VALUES * eps, "output")
    if error <= allowed and gradients:
        error_g, allowed_g, note_g = _worst(zip(wanted_grads, found_grads, strict=True), GRADIENTS * eps, "gradient")
        if error_g > allowed_g:
            error, allowed, note = error_g, allowed_g, note_g
    return Verification(
        True, error <= allowed, steps, error, allowed, time.perf_counter() - started, gradients,
        "" if error <= allowed else note,
    )  # fmt: skip


def _run(
    function: Callable[..., list[Any]], inputs: Sequence[Tensor], parameters: Sequence[Tensor], gradients: bool
) -> tuple[list[Any], list[Tensor | None]]:
    copies = [x.detach().clone().requires_grad_(x.requires_grad and gradients) for x in inputs]
    outputs = function(*copies)
    if not gradients:
        return outputs, []
    leaves = [x for x in (*copies, *parameters) if x.requires_grad]
    total: Any = 0.0
    generator = torch.Generator().manual_seed(1)
    for out in outputs:
        if isinstance(out, Tensor) and out.requires_grad:
            weight = torch.randn(out.shape, generator=generator, dtype=torch.float64).to(out.device, out.real.dtype)
            product = out * weight
            total = total + (product.real.sum() + product.imag.sum() if product.is_complex() else product.sum())
    if not isinstance(total, Tensor) or not leaves:
        return outputs, []
    return outputs, list(torch.autograd.grad(total, leaves, allow_unused=True))


def _worst(pairs: Iterable[tuple[Any, Any]], relative: float, what: str) -> tuple[float, float, str]:
    """The pair that is furthest beyond what is allowed."""
    worst = (0.0, 0.0, "")
    for number, (want, have) in enumerate(pairs):
        error, allowed, note = _difference(want, have, relative)
        if error - allowed > worst[0] - worst[1] or (not worst[2] and error >= worst[0]):
            worst = (error, allowed, f"{what} {number}: {note}")
    return worst


def _difference(want: Any, have: Any, relative: float) -> tuple[float, float, str]:
    if want is None or have is None:
        present = want if have is None else have
        size = 0.0 if present is None or not present.numel() else float(present.abs().amax())
        return size, 0.0, "missing in one of the two"
    if not isinstance(want, Tensor):
        return (0.0, 0.0, "") if want == have else (float("inf"), 0.0, f"{have} instead of {want}")
    if not isinstance(have, Tensor) or want.shape != have.shape or want.dtype != have.dtype:
        return float("inf"), 0.0, "another shape or type"
    want, have = want.detach(), have.detach()
    if not want.numel():
        return 0.0, 0.0, "empty"
    if not want.is_floating_point() and not want.is_complex():
        return (0.0, 0.0, "equal") if torch.equal(want, have) else (float("inf"), 0.0, "other integers")
    finite = torch.isfinite(want)
    if not torch.equal(finite, torch.isfinite(have)):
        return float("inf"), 0.0, "not finite at the same places"
    if not bool(finite.any()):
        return 0.0, 0.0, "nowhere finite"
    scale = float(want[finite].abs().amax())
    error = float((want - have)[finite].abs().amax())
    return error, relative * max(scale, 1e-30), "values differ"
