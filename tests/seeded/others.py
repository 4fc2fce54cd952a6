"""Forty more seeded bugs, by another hand, on programs of their own (other_programs.py).

Each is a slip that a compiler writer makes: an index, a sign, a transpose, a flag that is forgotten, a gradient that is
cut. Mutations look for ops by what they are, never by number, so that they also apply to smaller programs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

from linrec.dtypes import LONG
from linrec.ir import Arg, Atom, Graph, Op, Type, Use, order, rename
from linrec.sizes import Dim
from seeded.seeding import Bug, registering

OTHERS: list[Bug] = []
bug = registering(OTHERS)


# ---- small changes ----


def first(graph: Graph, kind: str, when: Callable[[Op], bool] = lambda op: True) -> Op:
    """The first op of that kind; LookupError if there is none."""
    for op in graph.ops:
        if op.kind == kind and when(op):
            return op
    raise LookupError(kind)


def instead(graph: Graph, op: Op, *new: Op) -> Graph:
    """The graph with `new` in the place of one op."""
    return replace(graph, ops=order(tuple(n for o in graph.ops for n in (new if o is op else (o,)))))


def typed(op: Op) -> Type:
    """The type of an op of one result; LookupError if it has several."""
    if not isinstance(op.type, Type):
        raise LookupError(op.result)
    return op.type


def read(arg: Arg) -> Use:
    """An argument that is a read; LookupError if it is a number."""
    if not isinstance(arg, Use):
        raise LookupError(str(arg))
    return arg


def argument(op: Op, place: int, value: Arg) -> Op:
    """The op with one argument changed."""
    return replace(op, args=(*op.args[:place], value, *op.args[place + 1 :]))


def type_of(graph: Graph, use: Use) -> Type:
    """The type of an input or of an op of one result."""
    given = next((i.type for i in graph.inputs if i.name == use.name), None)
    return typed(graph.op(use.name)) if given is None else given


def through(graph: Graph, op: Op, place: int, *kinds: tuple[str, tuple[Arg, ...]]) -> Graph:
    """The graph in which an argument of `op` first goes through operators that keep its type."""
    use = read(op.args[place])
    type_, time = type_of(graph, use), graph.by_name()[use.name].time if use.name in graph.by_name() else None
    new: list[Op] = []
    for n, (kind, more) in enumerate(kinds):
        new.append(Op(f"{op.result}.{kind}{n}", kind, (use, *more), (), type_, time))
        use = Use(new[-1].result)
    return instead(graph, op, *new, argument(op, place, use))


def detached(graph: Graph, op: Op, place: int) -> Graph:
    """The graph in which an argument of `op` is cut from its gradient."""
    return through(graph, op, place, ("detach", ()))


def steps(prefix: str, trip: Dim, shape: tuple[Dim, ...], test: str, bound: int) -> tuple[Op, Op, Op]:
    """Where the step's number passes a test, as booleans of the given shape."""
    return (
        Op(f"{prefix}.k", "arange", (trip,), (), Type("i64", (trip,))),
        Op(f"{prefix}.in", test, (Use(f"{prefix}.k"), bound), (), Type("bool", (trip,))),
        Op(f"{prefix}.mask", "reshape", (Use(f"{prefix}.in"), shape), (), Type("bool", shape)),
    )


def sources(graph: Graph, use: Use) -> Iterable[Op]:
    """The ops before a read, itself included, along first arguments."""
    by_name, current = graph.by_name(), use
    while current.name in by_name:
        op = by_name[current.name]
        yield op
        if not op.args or not isinstance(op.args[0], Use):
            return
        current = op.args[0]


# ---- canonicalize ----


@bug("canonicalize", "biquad")
def a_copy_with_a_past_is_dropped_and_its_delay_with_it(graph: Graph) -> Graph:
    """`alias` with an init is no copy that can go: u[-1] becomes u."""
    op = first(graph, "alias", lambda o: bool(o.init) and o.time is not None)
    return replace(graph, ops=tuple(o.map_uses(lambda u: Use(u.name) if u.name == op.result else u) for o in graph.ops))


@bug("canonicalize", "gru")
def rsub_written_as_sub(graph: Graph) -> Graph:
    """1 - z becomes z - 1: the gate is reversed in sign."""
    op = first(graph, "rsub")
    return instead(graph, op, replace(op, kind="sub"))


# ---- cse ----


@bug("cse", "echo")
def cse_compares_names_without_delays_and_numbers(graph: Graph) -> Graph:
    """h[-2] / 4 is merged into h[-1] / 2."""
    one = first(graph, "mul", lambda o: any(u.delay == 1 for u in o.uses()))
    two = first(graph, "mul", lambda o: any(u.delay == 2 for u in o.uses()))
    return rename(graph, {two.result: one.result})


@bug("cse", "twins")
def congruent_recurrences_merged_without_their_initial_states(graph: Graph) -> Graph:
    """Value numbering of cycles: equal equations are equal signals, wherever they start."""
    one = first(graph, "add", lambda o: bool(o.init))
    two = first(graph, "add", lambda o: bool(o.init) and o is not one and o.type == one.type and o.time == one.time)
    return rename(graph, {two.result: one.result})


# ---- dce ----


@bug("dce", "neuron")
def effects_are_no_roots(graph: Graph) -> Graph:
    """What a program leaves behind in an attribute is dropped."""
    if not graph.effects:
        raise LookupError("effects")
    return replace(graph, effects=())


@bug("dce", "echo")
def the_second_initial_value_is_the_first(graph: Graph) -> Graph:
    """Only init[0] is kept alive, and read at every delay."""
    for op in graph.ops:
        if len(op.init) > 1:
            return instead(graph, op, replace(op, init=(op.init[0],) * len(op.init)))
    raise LookupError("init")


# ---- hoist ----


@bug("hoist", "average")
def a_table_read_one_step_late(graph: Graph) -> Graph:
    """Coefficients of t are those of t - 1; the first is right."""
    op = first(graph, "signal", lambda o: typed(o).shape == ())
    table, trip = read(op.args[0]), graph.time(op.time or "").trip
    kept, whole = type_of(graph, table).dtype, (Use(f"{op.result}.one"), Use(f"{op.result}.rest"))
    new = (
        Op(whole[0].name, "slice", (table, 0, 0, 1), (), Type(kept, (1,))),
        Op(whole[1].name, "slice", (table, 0, 0, trip - 1), (), Type(kept, (trip - 1,))),
        Op(f"{op.result}.late", "cat", (whole, 0), (), Type(kept, (trip,))),
    )
    return instead(graph, op, *new, argument(op, 0, Use(new[-1].result)))


@bug("hoist", "neuron")
def computed_once_without_gradient(graph: Graph) -> Graph:
    """What leaves the loop is computed under no_grad."""
    op = first(graph, "sigmoid", lambda o: o.time is None)
    inner = replace(op, result=f"{op.result}.once")
    return instead(graph, op, inner, replace(op, kind="detach", args=(Use(inner.result),)))


@bug("hoist", "gru")
def a_gate_of_the_input_leaves_the_loop(graph: Graph) -> Graph:
    """The gate is computed once, at the last step."""
    op = first(graph, "sigmoid", lambda o: o.time is not None)
    end = Op(f"{op.result}.end", "last", (read(op.args[0]),), (), op.type)
    return instead(graph, op, end, argument(replace(op, time=None), 0, Use(end.result)))


# ---- find-recurrences ----


@bug("find-recurrences", "neuron")
def a_read_before_the_update_becomes_one_after(graph: Graph) -> Graph:
    """Outside its component a state is read without its delay."""
    states = {op.result for op in graph.ops if op.init}
    cycle = {m for r in graph.recurrences for m in r.members}
    for op in graph.ops:
        if op.result not in cycle and any(u.name in states and u.delay == 1 for u in op.uses()):
            return instead(graph, op, op.map_uses(lambda u: Use(u.name) if u.name in states else u))
    raise LookupError("delay")


@bug("find-recurrences", "biquad")
def the_older_carry_is_the_newer_one(graph: Graph) -> Graph:
    """The state handed on at delay two is that at delay one."""
    op = first(graph, "carry", lambda o: o.args[1] == 2)
    return instead(graph, op, argument(op, 1, 1))


# ---- final-only ----


@bug("final-only", "terminal")
def the_last_step_of_a_backward_loop_is_at_the_end(graph: Graph) -> Graph:
    """A backward loop ends at position 0, not at T - 1."""
    time = next((t for t in graph.times if t.direction == "backward"), None)
    op = first(graph, "select", lambda o: o.args[2] == 0)
    if time is None:
        raise LookupError("backward")
    return instead(graph, op, argument(op, 2, time.trip - 1))


@bug("final-only", "summary")
def the_last_input_is_the_one_before(graph: Graph) -> Graph:
    """last(x) is read at T - 2; at T = 1 the index wraps to the right step."""
    op = first(graph, "last", lambda o: graph.op(read(o.args[0]).name).kind == "signal")
    source, axis, *_ = graph.op(read(op.args[0]).name).args
    trip = graph.time(graph.op(read(op.args[0]).name).time or "").trip
    return instead(graph, op, replace(op, kind="select", args=(source, axis, trip - 2)))


@bug("final-only", "summary")
def moving_last_drops_the_skip_term(graph: Graph) -> Graph:
    """last(o + u) becomes last(o)."""
    op = first(graph, "add", lambda o: o.time is None and len(list(o.uses())) == 2)
    return instead(graph, op, replace(op, kind="alias", args=op.args[:1]))


# ---- prove-linear ----


@bug("prove-linear", "rectified")
def relu_is_taken_for_linear(graph: Graph) -> Graph:
    """A state that is clamped is proven linear."""
    found = tuple(
        replace(r, kind="lti", code="", reason="", culprit="", help="") if r.kind == "nonlinear" else r
        for r in graph.recurrences
    )
    return replace(graph, recurrences=found)


@bug("prove-linear", "paths")
def maximum_is_taken_for_logaddexp(graph: Graph) -> Graph:
    """The right operators, the wrong semiring."""
    op = first(graph, "maximum")
    found = tuple(replace(r, semiring="log-sum-exp") if op.result in r.members else r for r in graph.recurrences)
    return instead(replace(graph, recurrences=found), op, replace(op, kind="logaddexp"))


# ---- fold-drive, fold-readout ----


@bug("fold-drive", "summary")
def folded_weights_are_constants(graph: Graph) -> Graph:
    """The map before a state is folded by value: its weights are learned no more."""
    members = {m for r in graph.recurrences for m in r.members}
    op = first(graph, "linear", lambda o: o.result in members and not any(u.delay for u in o.uses()))
    return detached(graph, op, 1)


@bug("fold-readout", "sensor", "chunked")
def the_readout_sees_the_state_before(graph: Graph) -> Graph:
    """C h[t-1] + D u[t] without D: the update of this step is not read."""
    states = {s for r in graph.recurrences for s in r.states}
    op = first(
        graph, "linear", lambda o: isinstance(o.args[0], Use) and o.args[0].name in states and not o.args[0].delay
    )
    return instead(graph, op, argument(op, 0, Use(read(op.args[0]).name, 1)))


@bug("fold-readout", "plant")
def a_square_readout_transposed(graph: Graph) -> Graph:
    """y = C h becomes y = C^T h."""
    states = {s for r in graph.recurrences for s in r.states}
    op = first(graph, "linear", lambda o: o.args[0] in {Use(s) for s in states} and len(o.args) == 2)
    return instead(graph, op, replace(op, kind="matmul"))


# ---- choose-form ----


@bug("choose-form", "plant")
def final_although_every_step_is_read(graph: Graph) -> Graph:
    """The form for a state that is read at its last step only."""
    if not any(r.form in ("chunked", "convolution") for r in graph.recurrences):
        raise LookupError("form")
    return replace(graph, recurrences=tuple(replace(r, form="final") for r in graph.recurrences))


# ---- lower: scans ----


@bug("lower", "modes")
def drives_shifted_by_one_step(graph: Graph) -> Graph:
    """b[k] is b[k-1], and the last comes first."""
    op = first(graph, "scan_diagonal")
    return through(graph, op, 1, ("roll", ((1,), (0,))))


@bug("lower", "modes")
def the_gradient_of_poles_is_not_conjugated(graph: Graph) -> Graph:
    """da[k] = db[k] s[k-1] without the conjugate: the value a, the gradient that of its conjugate."""
    op = first(graph, "scan_diagonal")
    a = read(op.args[0])
    if type_of(graph, a).dtype not in ("c64", "c128"):
        raise LookupError("complex")
    type_ = type_of(graph, a)
    names = [f"{op.result}.{n}" for n in ("value", "conj", "still", "slope", "mixed")]
    new = (
        Op(names[0], "detach", (a,), (), type_),
        Op(names[1], "conj", (a,), (), type_),
        Op(names[2], "detach", (Use(names[1]),), (), type_),
        Op(names[3], "sub", (Use(names[1]), Use(names[2])), (), type_),
        Op(names[4], "add", (Use(names[0]), Use(names[3])), (), type_),
    )
    return instead(graph, op, *new, argument(op, 0, Use(names[4])))


@bug("lower", "gru")
def a_coefficient_is_cut_from_its_gradient(graph: Graph) -> Graph:
    """The time-varying gate is saved by value."""
    return detached(graph, first(graph, "scan_diagonal"), 0)


@bug("lower", "gru")
def all_rows_start_from_the_first(graph: Graph) -> Graph:
    """The initial state of the first sequence serves the whole batch: right for a batch of one."""
    op = first(graph, "scan_diagonal")
    start = read(op.args[2])
    type_ = type_of(graph, start)
    row = Op(f"{op.result}.row", "slice", (start, 0, 0, 1), (), Type(type_.dtype, (1, *type_.shape[1:])))
    wide = Op(f"{op.result}.rows", "expand", (Use(row.result), type_.shape), (), type_)
    return instead(graph, op, row, wide, argument(op, 2, Use(wide.result)))


@bug("lower", "average")
def scanned_in_single_precision(graph: Graph) -> Graph:
    """Double precision goes through a single-precision kernel."""
    op = first(graph, "scan_diagonal")
    own = Atom(LONG[typed(op).dtype])
    graph = through(graph, op, 1, ("to", (Atom("float32"),)), ("to", (own,)))
    op = first(graph, "scan_diagonal")
    inner = replace(op, result=f"{op.result}.exact")
    half = replace(op, result=f"{op.result}.half", kind="to", args=(Use(inner.result), Atom("float32")))
    return instead(graph, op, inner, half, replace(op, kind="to", args=(Use(half.result), own)))


@bug("lower", "returns")
def coefficients_of_a_backward_loop_are_not_turned(graph: Graph) -> Graph:
    """Drives are flipped to the order of steps, the discounts beside them are not."""
    scan = first(graph, "scan_diagonal")
    op = graph.op(read(scan.args[0]).name)
    if op.kind != "flip":
        raise LookupError("flip")
    return instead(graph, scan, argument(scan, 0, op.args[0]))


@bug("lower", "bidirectional")
def the_backward_result_stays_in_the_order_of_steps(graph: Graph) -> Graph:
    """Drives of a backward loop are flipped, its states are not flipped back."""
    scans = {o.result for o in graph.ops if o.kind == "scan_diagonal"}
    op = first(graph, "flip", lambda o: read(o.args[0]).name in scans)
    return instead(graph, op, replace(op, kind="alias", args=op.args[:1]))


@bug("lower", "resets")
def the_reset_comes_one_step_early(graph: Graph) -> Graph:
    """The flag of this step clears the state, not that of the step before."""
    scan = first(graph, "scan_diagonal")
    for op in sources(graph, read(scan.args[0])):
        if any(u.delay == 1 for u in op.uses()):
            return instead(graph, op, op.map_uses(lambda u: Use(u.name)))
    raise LookupError("delay")


@bug("lower", "neuron")
def the_constant_current_misses_the_first_step(graph: Graph) -> Graph:
    """The offset is added from the second step on."""
    scan, plus = first(graph, "scan_diagonal"), first(graph, "add", lambda o: o.time is not None and not o.init)
    drive, bias = read(scan.args[1]), next(u for u in plus.uses() if u.name in {i.name for i in graph.inputs})
    shape = typed(scan).shape
    k, inside, mask = steps(scan.result, shape[0], (shape[0], *(1 for _ in shape[1:])), "eq", 0)
    lost = Op(
        f"{scan.result}.lost",
        "mul",
        (Use(mask.result), bias),
        (),
        Type(typed(scan).dtype, (shape[0], *(1 for _ in shape[2:]), shape[-1])),
    )
    less = Op(f"{scan.result}.less", "sub", (drive, Use(lost.result)), (), typed(scan))
    return instead(graph, scan, k, inside, mask, lost, less, argument(scan, 1, Use(less.result)))


@bug("lower", "neuron")
def the_final_state_is_that_after_the_padding(graph: Graph) -> Graph:
    """T is padded to a multiple of 8, and the state goes on decaying through the padded steps."""
    op, scan = first(graph, "last"), first(graph, "scan_diagonal")
    decay = next(o for o in sources(graph, read(scan.args[0])) if o.kind == "sigmoid")
    names = [f"{op.result}.{n}" for n in ("steps", "padding", "decay", "end")]
    new = (
        Op(names[0], "full", ((), typed(scan).shape[0] * -1), (("dtype", Atom("int64")),), Type("i64", ())),
        Op(names[1], "remainder", (Use(names[0]), 8), (), Type("i64", ())),
        Op(names[2], "pow", (Use(decay.result), Use(names[1])), (), typed(decay)),
        replace(op, result=names[3]),
    )
    return instead(graph, op, *new, replace(op, kind="mul", args=(Use(names[3]), Use(names[2]))))


@bug("lower", "frames")
def products_before_the_first_state_in_the_wrong_order(graph: Graph) -> Graph:
    """h0 sees M[0] M[1] ... M[k], not M[k] ... M[0]; the drives are right."""
    op = first(graph, "scan_dense")
    m, b, start = (read(a) for a in op.args[:3])
    type_, (trip, *lead, n) = typed(op), typed(op).shape
    if len(lead) != 1 or type_of(graph, m).shape != (trip, *lead, n, n):
        raise LookupError("matrices of all rows")
    names = [
        f"{op.result}.{s}" for s in ("turned", "each", "zero", "eye", "eyes", "products", "free", "none", "driven")
    ]
    dtype = type_.dtype
    whole = (trip, *lead, n, n)
    new = (
        Op(names[0], "transpose", (m, -2, -1), (), Type(dtype, whole)),
        Op(names[1], "unsqueeze", (Use(names[0]), 2), (), Type(dtype, (trip, *lead, 1, n, n))),
        Op(names[2], "zeros", (whole,), (("dtype", Atom(LONG[dtype])),), Type(dtype, whole)),
        Op(names[3], "eye", (n,), (("dtype", Atom(LONG[dtype])),), Type(dtype, (n, n))),
        Op(names[4], "expand", (Use(names[3]), (*lead, n, n)), (), Type(dtype, (*lead, n, n))),
        Op(names[5], "scan_dense", (Use(names[1]), Use(names[2]), Use(names[4])), (), Type(dtype, whole)),
        Op(names[6], "einsum", ("tbij,bj->tbi", (Use(names[5]), start)), (), type_),
        Op(names[7], "zeros_like", (start,), (), type_of(graph, start)),
        Op(names[8], "scan_dense", (m, b, Use(names[7])), (), type_),
    )
    return instead(graph, op, *new, replace(op, kind="add", args=(Use(names[6]), Use(names[8]))))


@bug("lower", "paths")
def the_gradient_goes_to_the_loser(graph: Graph) -> Graph:
    """The derivative of maximum(p, u) by p is one where u wins."""
    op = first(graph, "semiring_weight")
    return instead(graph, op, replace(op, args=(op.args[0], op.args[2], op.args[1])))


# ---- lower: time-invariant systems ----


@bug("lower", "echo", "convolution")
def the_convolution_is_circular(graph: Graph) -> Graph:
    """Transforms of T points: the end of the signal is felt at its start."""
    op = first(graph, "lti_convolution")
    w, k = read(op.args[0]), read(op.args[1])
    type_ = typed(op)
    trip, shape = type_.shape[1], type_of(graph, k).shape
    if shape[1:] != (1, 1, 1):
        raise LookupError("one channel")
    names = [f"{op.result}.{s}" for s in ("row", "w", "k", "both")]
    new = (
        Op(names[0], "reshape", (k, (1, trip, 1, 1)), (), Type(type_.dtype, (1, trip, 1, 1))),
        Op(names[1], "fft_fft", (w, trip, 1), (), Type("c128", type_.shape)),
        Op(names[2], "fft_fft", (Use(names[0]), trip, 1), (), Type("c128", (1, trip, 1, 1))),
        Op(names[3], "mul", (Use(names[1]), Use(names[2])), (), Type("c128", type_.shape)),
        Op(f"{op.result}.back", "fft_ifft", (Use(names[3]), trip, 1), (), Type("c128", type_.shape)),
    )
    return instead(graph, op, *new, replace(op, kind="real", args=(Use(new[-1].result),)))


def _cut_at(op: Op, border: int) -> tuple[tuple[Op, ...], Use, Use, Use, Use]:
    """Masks of the steps before and after a border, and the responses to the drives before and after it."""
    w, type_ = read(op.args[0]), typed(op)
    trip, wide = type_.shape[1], Type(type_.dtype, (*type_.shape[:3], type_.shape[3]))
    early = steps(f"{op.result}.early", trip, (1, trip, 1, 1), "lt", border)
    late = steps(f"{op.result}.late", trip, (1, trip, 1, 1), "ge", border)
    names = [f"{op.result}.{s}" for s in ("w0", "w1", "y0", "y1")]
    new = (
        *early, *late,
        Op(names[0], "mul", (w, Use(early[2].result)), (), wide),
        Op(names[1], "mul", (w, Use(late[2].result)), (), wide),
        replace(op, result=names[2], args=(Use(names[0]), *op.args[1:])),
        replace(op, result=names[3], args=(Use(names[1]), *op.args[1:])),
    )  # fmt: skip
    return new, Use(early[2].result), Use(late[2].result), Use(names[2]), Use(names[3])


@bug("lower", "plant", "chunked")
def nothing_is_carried_over_step_sixteen(graph: Graph) -> Graph:
    """The second chunk starts from zero."""
    op = first(graph, "lti_chunked")
    new, early, _, before, after = _cut_at(op, 16)
    kept = Op(f"{op.result}.kept", "mul", (before, early), (), op.type)
    return instead(graph, op, *new, kept, replace(op, kind="add", args=(Use(kept.result), after)))


@bug("lower", "plant", "chunked")
def the_carry_is_advanced_one_step_too_far(graph: Graph) -> Graph:
    """A^(C+1) in the place of A^C between chunks of 8 steps."""
    op = first(graph, "lti_chunked")
    new, early, late, before, after = _cut_at(op, 8)
    a, type_ = read(op.args[1]), typed(op)
    if op.args[5] is not True:
        raise LookupError("states are not what is read")
    names = [f"{op.result}.{s}" for s in ("kept", "over", "far", "more", "both")]
    more = (
        Op(names[0], "mul", (before, early), (), type_),
        Op(names[1], "mul", (before, late), (), type_),
        Op(names[2], "einsum", ("gij,btgj->btgi", (a, Use(names[1]))), (), type_),
        Op(names[3], "add", (Use(names[0]), Use(names[2])), (), type_),
    )
    return instead(graph, op, *new, *more, replace(op, kind="add", args=(Use(names[3]), after)))


@bug("lower", "spring")
def the_initial_state_is_forgotten_after_sixty_four_steps(graph: Graph) -> Graph:
    """The free response reaches the first chunk only, and chunks have 64 steps."""
    op = first(graph, "lti_free")
    trip = typed(op).shape[1]
    k, inside, mask = steps(op.result, trip, (1, trip, 1, 1), "lt", 64)
    whole = replace(op, result=f"{op.result}.whole")
    return instead(
        graph, op, whole, k, inside, mask, replace(op, kind="mul", args=(Use(whole.result), Use(mask.result)))
    )


@bug("lower", "spring")
def two_initial_states_change_places(graph: Graph) -> Graph:
    """Position starts where velocity should."""
    free = first(graph, "lti_free")
    op = graph.op(read(free.args[0]).name)
    if op.kind != "cat" or not isinstance(op.args[0], tuple) or len(op.args[0]) != 2:
        raise LookupError("two states")
    return instead(graph, op, argument(op, 0, op.args[0][::-1]))


@bug("lower", "biquad")
def a_carry_wraps_around_at_one_step(graph: Graph) -> Graph:
    """The state at delay two is row T - 2 of the output, which at T = 1 is the last row again."""
    op = first(graph, "carry", lambda o: o.args[1] == 2)
    whole = first(graph, "stack", lambda o: o.args[0] == op.args[0])
    trip = graph.time(graph.op(read(op.args[0]).name).time or "").trip
    return instead(graph, op, replace(op, kind="select", args=(Use(whole.result), whole.args[1], trip - 2)))


# ---- lower: matrices ----


def _one_back(delays: Arg) -> Arg:
    """Reads of the state after the update as reads of it before."""
    if not isinstance(delays, tuple) or 1 in delays:
        raise LookupError("delays")
    return tuple(1 for _ in delays)


@bug("lower", "attention")
def the_query_reads_before_the_update(graph: Graph) -> Graph:
    """q[t] sees S[t-1]: the mask of a chunk is strict."""
    op = first(graph, "matrix_scan")
    return instead(graph, op, argument(op, 6, _one_back(op.args[6])))


@bug("lower", "attention")
def the_memory_starts_transposed(graph: Graph) -> Graph:
    """Keys by values and values by keys look alike when both are as many."""
    op = first(graph, "matrix_scan")
    *_, k, v = type_of(graph, read(op.args[7])).shape
    if k != v:
        raise LookupError("square")
    return through(graph, op, 7, ("transpose", (-2, -1)))
