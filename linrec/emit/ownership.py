"""Ownership: what a step returns as its state shares no memory with its arguments, its outputs or itself.

So a buffer that is filled with one sample after the other, an output that is written to and a state that is updated in
place change nothing else. A leaf is copied only where it would share memory: as a view of an argument or parameter, of
an output, or of another leaf. Costs one walk over the graph, and a copy of such leaves a step.
"""

from __future__ import annotations

from dataclasses import replace

from linrec.ir import Arg, Graph, Op, Use

# operators whose result may share memory with their first argument
_VIEWS = frozenset(
    "alias select slice view reshape _unsafe_view flatten unflatten expand expand_as broadcast_to permute transpose "
    "swapaxes movedim unsqueeze squeeze narrow detach getitem split chunk unbind split_with_sizes tensor_split t numpy_T "
    "mT mH real imag conj _conj resolve_conj resolve_neg contiguous to type_as diagonal unfold view_as view_as_real "
    "view_as_complex reshape_as lift_fresh dropout feature_dropout alpha_dropout".split()
)


def own_state(graph: Graph, count: int) -> Graph:
    """A step whose outputs from place `count` on, its state, are tensors of their own."""
    made, given = graph.by_name(), {i.name for i in graph.inputs}

    def memory(name: str) -> str:
        """The value whose memory this one may be."""
        op = made.get(name)
        while op is not None and op.kind in _VIEWS and op.args and isinstance(op.args[0], Use):
            name = op.args[0].name
            op = made.get(name)
        return name

    states = {i.name for i in graph.inputs if i.path.startswith("state:")}
    ops, outputs, taken = list(graph.ops), list(graph.outputs), set(given)

    def copied(place: int, value: Use) -> Arg:
        name = f"own.{place}"
        op = made.get(value.name)
        type_ = op.type if op is not None else next(i.type for i in graph.inputs if i.name == value.name)
        ops.append(Op(name, "clone", (value,), (), type_))
        return Use(name)

    for place, value in enumerate(graph.outputs):
        if not isinstance(value, Use):
            continue
        own = memory(value.name)
        if own in (states if place < count else taken):
            outputs[place] = copied(place, value)
        else:
            taken.add(own)
    return replace(graph, ops=tuple(ops), outputs=tuple(outputs))
