"""Forty seeded bugs: what a wrong pass could plausibly make, said as a change to what the right one made.

Each names the pass, the program (programs.py), and a mutation of the graph after that pass that returns None where
there is nothing to mutate. They follow from the contract alone (same function and gradients, step equals sequence, splitting
is free, nothing nonlinear is called linear), not from how the verifier works.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from linrec.ir import Arg, Graph, Op, Recurrence, Type, Use, map_uses, order
from linrec.sizes import size
from seeded.seeding import Bug, registering

BUGS: list[Bug] = []
bug = registering(BUGS)


# ---- small changes ----


def edited(graph: Graph, result: str, change: Callable[[Op], Op], more: Iterable[Op] = ()) -> Graph | None:
    """The graph with one op changed and some added."""
    if result not in graph.by_name():
        return None
    ops = [change(op) if op.result == result else op for op in graph.ops]
    return replace(graph, ops=order((*ops, *more)))


def first(graph: Graph, kind: str) -> Op | None:
    """The first op of a kind."""
    return next((op for op in graph.ops if op.kind == kind), None)


def argument(op: Op, place: int, value: Arg) -> Op:
    """The op with one argument changed."""
    return replace(op, args=(*op.args[:place], value, *op.args[place + 1 :]))


def through(graph: Graph, kind: str, place: int, *steps: tuple[str, tuple[Any, ...]]) -> Graph | None:
    """Send an argument of the first op of `kind` through other ops first; "it" stands for the value so far."""
    found = first(graph, kind)
    if found is None or not isinstance(found.args[place], Use):
        return None
    use = found.args[place]
    assert isinstance(use, Use)
    made = graph.by_name()[use.name].type if use.name in graph.by_name() else None
    made = made or next((i.type for i in graph.inputs if i.name == use.name), None)
    new, last = [], use
    for number, (name, args) in enumerate(steps):
        given = tuple(last if a == "it" else use if a == "given" else a for a in args)
        new.append(Op(f"bug{number}", name, given, (), made))
        last = Use(f"bug{number}")
    return edited(graph, found.result, lambda op: argument(op, place, last), new)


def reading(graph: Graph, old: str, new: Use) -> Graph:
    """Read `new` wherever `old` was read, apart from `new` itself."""

    def change(use: Use) -> Arg:
        return Use(new.name, new.delay + use.delay) if use.name == old else use

    ops = tuple(op if op.result == new.name else op.map_uses(change) for op in graph.ops)
    return replace(graph, ops=order(ops), outputs=tuple(map_uses(o, change) for o in graph.outputs))


def claimed(graph: Graph, chosen: Callable[[Recurrence], bool], **facts: Any) -> Graph | None:
    """The graph with other facts about some recurrences."""
    if not any(map(chosen, graph.recurrences)):
        return None
    if not {*facts.get("members", ()), *facts.get("outputs", ())} <= graph.by_name().keys():
        return None
    return replace(graph, recurrences=tuple(replace(r, **facts) if chosen(r) else r for r in graph.recurrences))


# ---- canonicalize, cse, dce, hoist ----


@bug("canonicalize", "resonator")
def two_steps_back_become_one(graph: Graph) -> Graph | None:
    return edited(graph, "q", lambda op: argument(op, 0, Use("h", 1)))


@bug("canonicalize", "gated")
def zeros_become_ones(graph: Graph) -> Graph | None:
    return edited(graph, "zero", lambda op: replace(op, kind="new_ones"))


@bug("canonicalize", "leaky")
def initial_state_is_forgotten(graph: Graph) -> Graph | None:
    return edited(graph, "h", lambda op: replace(op, init=(0.0,)))


@bug("canonicalize", "leaky")
def effect_is_lost(graph: Graph) -> Graph | None:
    return replace(graph, effects=tuple((path, Use("h0")) for path, _ in graph.effects))


@bug("cse", "resonator")
def reads_at_two_delays_are_merged(graph: Graph) -> Graph | None:
    return edited(graph, "s", lambda op: replace(op, args=(Use("q"), Use("q")))) if "q" in graph.by_name() else None


@bug("cse", "resonator")
def differences_are_merged_both_ways(graph: Graph) -> Graph | None:
    return reading(graph, "j", Use("i"))


@bug("cse", "backward")
def attributes_are_not_compared(graph: Graph) -> Graph | None:
    return reading(graph, "s2", Use("s"))


@bug("cse", "backward")
def signals_with_two_starts_are_merged(graph: Graph) -> Graph | None:
    return reading(graph, "v1", Use("v0"))


@bug("dce", "leaky")
def skip_term_is_dropped(graph: Graph) -> Graph | None:
    return edited(graph, "g", lambda op: replace(op, kind="alias", args=(Use("h"),)))


@bug("dce", "memory")
def bias_is_dropped(graph: Graph) -> Graph | None:
    return edited(graph, "o", lambda op: replace(op, args=op.args[:2]))


@bug("hoist", "gated")
def a_varying_gate_is_hoisted(graph: Graph) -> Graph | None:
    kind = graph.op("z").type
    return edited(
        graph, "p", lambda op: argument(op, 0, Use("stale")), [Op("stale", "pick", (Use("z"), 0), (), kind)]
    )  # fmt: skip


@bug("hoist", "gated")
def difference_is_turned_around(graph: Graph) -> Graph | None:
    return edited(graph, "d", lambda op: replace(op, args=op.args[::-1]))


@bug("hoist", "memory")
def transposition_is_lost(graph: Graph) -> Graph | None:
    return edited(graph, "At", lambda op: replace(op, kind="alias"))


# ---- recurrences and proofs ----


@bug("find-recurrences", "leaky")
def an_output_of_a_recurrence_is_missed(graph: Graph) -> Graph | None:
    return claimed(graph, lambda r: bool(r.outputs), outputs=("p",))


@bug("find-recurrences", "resonator")
def a_member_is_missed(graph: Graph) -> Graph | None:
    return claimed(graph, lambda r: "q" in r.members, members=("p", "s", "h"))


@bug("prove-linear", "mixed")
def tanh_is_called_linear(graph: Graph) -> Graph | None:
    return claimed(graph, lambda r: "n" in r.states, kind="lti", code="", culprit="", reason="", help="")


@bug("prove-linear", "mixed")
def detach_is_called_linear(graph: Graph) -> Graph | None:
    return claimed(graph, lambda r: "k" in r.states, kind="lti", code="", culprit="", reason="", help="")


@bug("prove-linear", "gated")
def a_varying_gate_is_called_constant(graph: Graph) -> Graph | None:
    return claimed(graph, lambda r: r.kind == "ltv", kind="lti")


@bug("find-structure", "memory")
def dense_is_called_diagonal(graph: Graph) -> Graph | None:
    return claimed(graph, lambda r: r.structure == "dense", structure="diagonal")


# ---- folding and moving ----


@bug("fold-drive", "memory")
def a_nonlinear_map_is_folded_in(graph: Graph) -> Graph | None:
    return claimed(graph, lambda r: "f" not in r.members, members=("f", *graph.recurrences[0].members))


@bug("fold-readout", "memory")
def a_nonlinear_readout_is_folded_in(graph: Graph) -> Graph | None:
    if not graph.recurrences:
        return None
    o = next((op for op in graph.ops if op.kind == "tanh"), None)
    members = graph.recurrences[0].members
    return None if o is None else claimed(graph, lambda r: True, members=(*members, o.result), outputs=(o.result,))


@bug("fold-readout", "leaky")
def an_output_that_others_read_is_folded_away(graph: Graph) -> Graph | None:
    members = graph.recurrences[0].members
    return claimed(graph, lambda r: True, members=(*members, "g", "o"), outputs=("o",))


@bug("final-only", "memory")
def last_is_off_by_one(graph: Graph) -> Graph | None:
    found = first(graph, "last")
    return None if found is None else edited(
        graph, found.result, lambda op: replace(op, kind="pick", args=(op.args[0], size("T") - 2))
    )  # fmt: skip


@bug("final-only", "backward")
def the_last_step_of_a_backward_loop_is_taken_for_the_last_position(graph: Graph) -> Graph | None:
    return edited(graph, "f", lambda op: replace(op, kind="pick", args=(op.args[0], 0)))


@bug("choose-form", "leaky")
def final_is_chosen_though_every_step_is_read(graph: Graph) -> Graph | None:
    return claimed(graph, lambda r: r.kind == "lti", form="final")


@bug("choose-form", "mixed")
def a_nonlinear_recurrence_gets_a_form(graph: Graph) -> Graph | None:
    return claimed(graph, lambda r: "n" in r.states, form="scan")


# ---- lowering ----


@bug("lower", "leaky", "convolution")
def lowered_without_initial_state(graph: Graph) -> Graph | None:
    found = first(graph, "lti_free")
    if found is None:
        return None
    dropped = next(op for op in graph.ops if Use(found.result) in op.args)
    rest = next(a for a in dropped.args if a != Use(found.result))
    return edited(graph, dropped.result, lambda op: replace(op, kind="alias", args=(rest,)))


@bug("lower", "leaky", "convolution")
def response_is_late_by_one(graph: Graph) -> Graph | None:
    return through(graph, "lti_spectrum", 0, ("roll", ("it", (1,), (0,))))


@bug("lower", "resonator", "chunked")
def matrix_is_transposed(graph: Graph) -> Graph | None:
    return through(graph, "lti_chunked", 1, ("mT", ("it",)))


@bug("lower", "memory")
def response_is_not_reversed(graph: Graph) -> Graph | None:
    return through(graph, "lti_reversed", 0, ("flip", ("it", (0,))))


@bug("lower", "gated")
def gate_is_reversed(graph: Graph) -> Graph | None:
    return through(graph, "scan_diagonal", 0, ("rsub", ("it", 1)))


@bug("lower", "gated")
def gate_is_of_the_step_before(graph: Graph) -> Graph | None:
    return through(graph, "scan_diagonal", 0, ("roll", ("it", (1,), (0,))))


@bug("lower", "gated")
def gate_is_too_large_by_a_billionth(graph: Graph) -> Graph | None:
    return through(graph, "scan_diagonal", 0, ("mul", ("it", 1 + 1e-9)))


@bug("lower", "gated")
def carry_is_lost_every_eighth_step(graph: Graph) -> Graph | None:
    return _carry_lost(graph, 8)


@bug("lower", "gated")
def carry_is_lost_every_sixty_fourth_step(graph: Graph) -> Graph | None:
    return _carry_lost(graph, 64)


def _carry_lost(graph: Graph, chunk: int) -> Graph | None:
    found = first(graph, "scan_diagonal")
    if found is None:
        return None
    # a[t] is zero where t is a multiple of the chunk, apart from t = 0
    at = [
        Op("bug.t", "arange", (size("T"),), (), Type("i64", (size("T"),))),
        Op("bug.r", "remainder", (Use("bug.t"), chunk), (), Type("i64", (size("T"),))),
        Op("bug.z", "eq", (Use("bug.r"), 0), (), Type("bool", (size("T"),))),
        Op("bug.p", "gt", (Use("bug.t"), 0), (), Type("bool", (size("T"),))),
        Op("bug.m", "logical_and", (Use("bug.z"), Use("bug.p")), (), Type("bool", (size("T"),))),
        Op("bug.c", "reshape", (Use("bug.m"), (size("T"), 1, 1)), (), Type("bool", (size("T"), 1, 1))),
        Op("bug.a", "masked_fill", (found.args[0], Use("bug.c"), 0.0), (), None),
    ]
    return edited(graph, found.result, lambda op: argument(op, 0, Use("bug.a")), at)


@bug("lower", "backward")
def backward_loop_is_scanned_forward(graph: Graph) -> Graph | None:
    return through(graph, "scan_diagonal", 1, ("flip", ("it", (0,))))


@bug("lower", "rotation")
def gradient_is_not_conjugated(graph: Graph) -> Graph | None:
    # the value of a, the gradient of its conjugate
    found = first(graph, "scan_diagonal")
    if found is None:
        return None
    a = found.args[0]
    ops = [
        Op("bug.d", "detach", (a,)),
        Op("bug.c", "conj", (a,)),
        Op("bug.e", "detach", (Use("bug.c"),)),
        Op("bug.z", "sub", (Use("bug.c"), Use("bug.e"))),
        Op("bug.a", "add", (Use("bug.d"), Use("bug.z"))),
    ]
    return edited(graph, found.result, lambda op: argument(op, 0, Use("bug.a")), ops)


@bug("lower", "rotation")
def gradient_of_the_initial_state_is_lost(graph: Graph) -> Graph | None:
    return through(graph, "scan_diagonal", 2, ("detach", ("it",)))


@bug("lower", "gated")
def gradient_of_the_gate_is_lost(graph: Graph) -> Graph | None:
    return through(graph, "scan_diagonal", 0, ("detach", ("it",)))


@bug("lower", "delta")
def products_are_taken_in_the_wrong_order(graph: Graph) -> Graph | None:
    return through(graph, "scan_dense", 0, ("flip", ("it", (0,))))
