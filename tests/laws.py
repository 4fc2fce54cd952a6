"""The laws of the two forms as functions: run whole, by steps or in chunks, with gradients of everything."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from contract import parameters, same, tensors
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from linrec.recurrence import RecurrentModule

Run = Callable[..., tuple[list[Any], dict[str, Tensor]]]


def leaves_of(result: Any) -> list[Any]:
    """Results in order; None, for what has no value yet, is one."""
    return pytree.tree_leaves(result, is_leaf=lambda v: v is None)


def cut(rnn: RecurrentModule, inputs: Sequence[Tensor], start: int, count: int) -> list[Tensor]:
    """Some steps of the inputs; those that do not vary as they are."""
    return [x if a is None else x.narrow(a, start, count) for x, a in zip(inputs, rnn.program.inputs, strict=True)]


def length(rnn: RecurrentModule, inputs: Sequence[Tensor]) -> int:
    """The number of steps of the inputs."""
    return next(x.shape[a] for x, a in zip(inputs, rnn.program.inputs, strict=True) if a is not None)


def whole(rnn: RecurrentModule, *inputs: Tensor) -> tuple[list[Any], dict[str, Tensor]]:
    """All steps at once."""
    result, state = rnn(*inputs)
    return leaves_of(result), state


def by_steps(rnn: RecurrentModule, *inputs: Tensor) -> tuple[list[Any], dict[str, Tensor]]:
    """One step after the other."""
    state, parts = None, []
    for t in range(length(rnn, inputs)):
        x = [x if a is None else x.select(a, t) for x, a in zip(inputs, rnn.program.inputs, strict=True)]
        result, state = rnn.step(*x, state=state)
        parts.append(leaves_of(result))
    assert state is not None
    return _joined(torch.stack, rnn, parts), state


def _joined(join: Callable[[list[Tensor], int], Tensor], rnn: RecurrentModule, parts: list[list[Any]]) -> list[Any]:
    """The results of several calls as one: outputs along time, of what is no output over time the last."""
    joined = []
    for n, axis in enumerate(rnn.program.outputs):
        values = [p[n] for p in parts if p[n] is not None]
        joined.append(join(values, axis) if isinstance(axis, int) else values[-1])
    return joined


def in_chunks(sizes: Sequence[int]) -> Run:
    """Chunks of these sizes, then the rest."""

    def run(rnn: RecurrentModule, *inputs: Tensor) -> tuple[list[Any], dict[str, Tensor]]:
        state, parts, start, total = None, [], 0, length(rnn, inputs)
        for size in [*sizes, total]:
            count = min(size, total - start)
            if count:
                result, state = rnn(*cut(rnn, inputs, start, count), state=state)
                parts.append(leaves_of(result))
                start += count
        assert state is not None
        return _joined(torch.cat, rnn, parts), state

    return run


def measured(
    run: Callable[..., tuple[list[Any], dict[str, Tensor]]], model: Any, inputs: Sequence[Tensor]
) -> tuple[Any, dict[str, Tensor]]:
    """Results and state, and the gradients of a fixed weighting of both in every input and parameter."""
    given = [x.clone().requires_grad_(x.is_floating_point() or x.is_complex()) for x in inputs]
    wanted = {f"input {i}": x for i, x in enumerate(given) if x.requires_grad}
    wanted |= {name: p for name, p in parameters(model).items() if p.requires_grad}
    written = {name: value.clone() for name, value in getattr(model, "named_buffers", dict)()}
    outputs, state = run(model, *(x.clone() for x in given))
    total = torch.zeros((), dtype=torch.float64)
    draw = torch.Generator().manual_seed(7)
    for leaf in tensors((outputs, dict(sorted(state.items())))):
        if leaf.requires_grad:
            real = torch.view_as_real(leaf) if leaf.is_complex() else leaf
            total = total + (real.double() * torch.randn(real.shape, generator=draw, dtype=torch.float64)).sum()
    found: Sequence[Tensor | None] = [None] * len(wanted)
    if total.requires_grad:
        found = torch.autograd.grad(total, list(wanted.values()), allow_unused=True)
    with torch.no_grad():  # the next run starts from what this one found, not from what the program wrote
        for name, value in written.items():
            model.get_buffer(name).copy_(value)
    return (outputs, state), {n: g for n, g in zip(wanted, found, strict=True) if g is not None}


def assert_same_run(got: Any, want: Any, what: str, rel: float = 1e-9) -> None:
    """Equal results, states and gradients."""
    (outputs, state), grads = got
    (outputs_w, state_w), grads_w = want
    same(outputs, outputs_w, f"{what}: result", rel)
    assert state.keys() == state_w.keys(), f"{what}: state {sorted(state)}, expected {sorted(state_w)}"
    for name in state_w:
        same(state[name], state_w[name], f"{what}: state '{name}'", rel)
    for name in grads_w | grads:
        like = grads_w.get(name, grads.get(name))
        assert like is not None
        zero = torch.zeros_like(like)
        same(grads.get(name, zero), grads_w.get(name, zero), f"{what}: gradient of {name}", rel)


def as_written(model: Callable[..., Any]) -> Callable[..., tuple[list[Any], dict[str, Tensor]]]:
    """The original, without a state to show."""

    def run(_: Any, *inputs: Tensor) -> tuple[list[Any], dict[str, Tensor]]:
        return leaves_of(model(*inputs)), {}

    return run


def without_state(run: Run) -> Run:
    """Results alone."""

    def outputs(rnn: RecurrentModule, *inputs: Tensor) -> tuple[list[Any], dict[str, Tensor]]:
        return run(rnn, *inputs)[0], {}

    return outputs


def shares_parameters(rnn: nn.Module, model: Any) -> bool:
    """Are the parameters of both the same tensors?"""
    mine, theirs = dict(rnn.named_parameters()), parameters(model)
    return mine.keys() == theirs.keys() and all(mine[n] is theirs[n] for n in mine)
