"""Branches on a counter: both arms at every step, and a choice between what they assign.

    if t % 3 == 0:              h' = f(h)
        h = f(h)         =>     h  = where(c[t], h', h)        c = (arange(T) % 3 == 0)

A step runs one arm. What is known of the other is taken from a step that ran it: operators of the same kind stand in its
place, without arguments of their own (`absent`), so that all steps are one body again. Conditions are
read from the source, as functions of the loop's counter (`coefficients`); where every one of them is periodic
but for some steps at either end, traces of two periods more have seen all that a step can read.
"""

from __future__ import annotations

import ast
import math
from bisect import bisect_left
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import CodeType

from linrec.errors import CaptureError
from linrec.frontends.loop.coefficients import Coefficient, condition
from linrec.frontends.loop.counters import definition
from linrec.frontends.loop.flatten import Flat
from linrec.frontends.loop.repeats import Repeat
from linrec.frontends.loop.trace import Frame, Line, Trace
from linrec.ir import Arg, Op, Source, Use

_LONGEST_TRACE = 120
_HORIZON = 4096
_LONGEST_PERIOD = 12
_BEYOND = 4  # steps over two periods

Loop = tuple[CodeType, int]  # a loop statement: its function and line
Place = tuple[str, tuple[int, int], tuple[int, int]]  # file, and line and column of the first and last character


@dataclass(frozen=True)
class Turns:
    """One execution of a loop: how many lines had run before each of its turns, and before its end."""

    loop: Loop
    starts: tuple[int, ...]
    stop: int

    def at(self, lines: int) -> int | None:
        """The turn that is under way when so many lines have run."""
        return bisect_left(self.starts, lines) - 1 if self.starts[0] < lines <= self.stop else None

    def end(self, turn: int) -> int:
        """How many lines have run when the turn is over."""
        return self.starts[turn + 1] if turn + 1 < len(self.starts) else self.stop


@dataclass(eq=False)
class Branch:
    """A test of a counter that every turn makes, or every turn in which another branch leads to it.

    `entries` are the lines at which turns make it, by turn; `condition` counts turns.
    """

    turns: Turns
    condition: Coefficient
    entries: dict[int, int]
    ends: dict[int, int]  # the lines before which what follows from it is over
    arms: tuple[list[Place], list[Place]]  # what runs where the test holds, and where it does not
    depth: int

    def holds(self, turn: int) -> bool:
        """Is the test true at that turn?"""
        return bool(self.condition.number(turn))

    def leads_to(self, other: Branch, side: bool) -> bool:
        """Is the other one in the arm of this side?"""
        held = [place for arm in other.arms for place in arm]
        return self is not other and any(
            file == its and begin <= first and last <= end
            for file, begin, end in self.arms[not side] for its, first, last in held
        )  # fmt: skip


Path = tuple[tuple[Branch, bool], ...]  # branches from the outermost inwards, and which arm


def has_branches(code: CodeType) -> bool:
    """Does the function's source hold a branch?"""
    return next(_tests(code), None) is not None


def branches(trace: Trace, growing: Collection[Loop]) -> list[Branch]:
    """The tests of counters within loops over time that can be read."""
    calls: dict[int, list[int]] = {}
    for index, line in enumerate(trace.lines):
        calls.setdefault(line.call, []).append(index)
    tests = {code: list(_tests(code)) for code in {line.code for line in trace.lines}}
    found: list[Branch] = []
    for turns in executions(trace):
        if turns.loop in growing:
            for code, nodes in tests.items():
                for node, statement, following in nodes:
                    entries = _entries(trace.lines, calls, code, node, statement, turns)
                    found += _read(trace, code, node, following, turns, entries)
    return found


def executions(trace: Trace) -> list[Turns]:
    """The loops that ran, each time they did."""
    found: list[Turns] = []
    calls: dict[int, list[int]] = {}
    for index, ran in enumerate(trace.lines):
        calls.setdefault(ran.call, []).append(index)
    loops = {code: list(_loops(code)) for code in {line.code for line in trace.lines}}
    for indices in calls.values():
        code = trace.lines[indices[0]].code
        for loop in loops[code]:
            last = loop.body[-1].end_lineno or loop.lineno
            starts: list[int] = []
            for place, index in enumerate(indices):
                line = trace.lines[index].line
                following = trace.lines[indices[place + 1]].line if place + 1 < len(indices) else -1
                if line == loop.lineno and loop.lineno < following <= last:
                    starts.append(index)
                elif starts and not loop.lineno < line <= last:  # the header for the last time, or what comes after
                    found.append(Turns((code, loop.lineno), tuple(starts), index))
                    starts = []
            if starts:
                found.append(Turns((code, loop.lineno), tuple(starts), len(trace.lines)))
    return found


def growing_loops(traces: Sequence[Trace]) -> set[Loop]:
    """The loops that take more turns the longer time is."""
    most: list[dict[Loop, int]] = []
    for trace in traces:
        counts: dict[Loop, int] = {}
        for turns in executions(trace):
            counts[turns.loop] = max(counts.get(turns.loop, 0), len(turns.starts))
        most.append(counts)
    return {loop for loop in most[0] if len({m.get(loop) for m in most}) > 1}


def shortest(found: Sequence[Sequence[Branch]], lengths: Sequence[int]) -> int:
    """From which length on every arm runs, so that what it reads has a gradient; of traces of these lengths."""
    least = 0
    for several in zip(*found, strict=False):
        branch, length = several[0], lengths[0]
        turns = sorted(branch.entries, reverse=depends_on_length(several))
        run = [branch.holds(turn) for turn in turns]
        if len(set(run)) == 2:
            both = max(run.index(True), run.index(False))
            least = max(
                least,
                abs(turns[both] - turns[0]) + 1 + turns[0] * (turns[0] < turns[-1]) + length - len(branch.turns.starts),
            )
    return least


def depends_on_length(several: Sequence[Branch]) -> bool:
    """Does a test, which traces of several lengths have, come out otherwise at the same turn?"""
    return len({tuple(map(branch.holds, range(_HORIZON))) for branch in several}) > 1


def check_ends(flat: Flat, repeats: Sequence[Repeat], every: int) -> tuple[list[Branch], bool]:
    """The branches of steps that stand before the loop that was found, and whether any stand after it.

    The program is to hold for lengths that are `every` steps apart. Raises CaptureError where a step after the loop goes a way that depends on where it ends.
    """
    before: list[Branch] = []
    has_late = False
    inside = {op.result for r in repeats for op in flat.ops[r.start : r.stop]}
    for branch in flat.branches:
        turns = [branch.turns.at(flat.frames[op.result].at) if op.result in flat.frames else None for op in flat.ops]
        places = [i for i, op in enumerate(flat.ops) if turns[i] is not None and op.result in inside]
        outside = [i for i, op in enumerate(flat.ops) if turns[i] is not None and op.result not in inside]
        late = [i for i in outside if not places or i > places[0]]
        settled = _settled(list(map(branch.holds, range(_HORIZON))))
        if late and (settled is None or every % settled[1]):
            raise CaptureError(
                "LR0405", "the last step is not like the others, and what it does depends on a counter",
                help="let every step do the same: put special last steps outside the loop",
            )  # fmt: skip
        has_late |= bool(late)
        if len(outside) > len(late):
            before.append(branch)
    return before, has_late


def length_for(found: Sequence[Branch], longer: Sequence[Branch]) -> int | None:
    """How long traces must be to see all that these branches can do; None if that is too long.

    `longer` are the same in a longer trace: what depends on its length is looked at from the end as well.
    """
    start, end, period = 0, 0, 1
    for branch, other in zip(found, longer, strict=True):
        here, there = ([b.holds(step) for step in range(_HORIZON)] for b in (branch, other))
        early = _settled(here)
        if early is None:
            return None
        if here == there:
            start, period = max(start, early[0]), math.lcm(period, early[1])
            continue
        lengths = [len(b.turns.starts) for b in (branch, other)]
        last = lengths[0] - 1
        late = _settled([branch.holds(last - step) for step in range(_HORIZON)])
        if late is None:
            return None
        period = math.lcm(period, early[1], late[1])
        # changes that both traces have at the same step, or as far from the end, are all that there are
        changes = [{i for i in range(1, n) if p[i] != p[i - 1]} for p, n in zip((here, there), lengths, strict=True)]
        from_end = [{n - i for i in c} for c, n in zip(changes, lengths, strict=True)]
        front, back = changes[0] & changes[1], from_end[0] & from_end[1]
        is_told = period == 1 and all(i in front or lengths[0] - i in back for i in changes[0])
        start = max(start, max(front, default=0) if is_told else early[0])
        end = max(end, max(back, default=0) if is_told else late[0])
    length = start + end + 2 * period + _BEYOND
    return length if length <= _LONGEST_TRACE else None


def period(found: Sequence[Branch]) -> int:
    """After how many steps all of these branches go the same ways again; one if some never do."""
    settled = [_settled(list(map(branch.holds, range(_HORIZON)))) for branch in found]
    return math.lcm(*(s[1] for s in settled if s)) if all(settled) else 1


def _settled(pattern: list[bool]) -> tuple[int, int] | None:
    """From which step on a pattern repeats itself, and its period; None if that is too long."""
    tail = pattern[len(pattern) // 2 :]
    period = next((p for p in range(1, _LONGEST_PERIOD + 1) if tail[p:] == tail[:-p]), None)
    if period is None:
        return None
    steps = range(len(pattern) - period)
    return next((i + 1 for i in reversed(steps) if pattern[i] != pattern[i + period]), 0), period


# the user's source -------------------------------------------------------------------------------


def _inside(node: ast.AST) -> Iterator[ast.AST]:
    """What a node holds, but for functions of their own."""
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.FunctionDef | ast.Lambda | ast.ClassDef | ast.ListComp | ast.GeneratorExp):
            yield child
            yield from _inside(child)


def _loops(code: CodeType) -> Iterator[ast.For | ast.While]:
    """Loops over lines of their own."""
    function = definition(code)
    for node in () if function is None else _inside(function):
        if isinstance(node, ast.For | ast.While) and not node.orelse and node.body[0].lineno > node.lineno:
            yield node


def _tests(code: CodeType) -> Iterator[tuple[ast.If | ast.IfExp, ast.stmt, list[ast.stmt]]]:
    """Branches of a function: the test, its statement, and the statements after it in its block."""
    function = definition(code)
    blocks = [] if function is None else [function, *_inside(function)]
    for owner in blocks:
        for name in ("body", "orelse", "finalbody"):
            block = getattr(owner, name, None)
            if not isinstance(block, list):
                continue
            for place, statement in enumerate(block):
                if isinstance(statement, ast.If):
                    yield statement, statement, block[place + 1 :]
                elif isinstance(statement, ast.Assign | ast.AugAssign | ast.AnnAssign | ast.Expr | ast.Return):
                    for node in _inside(statement):
                        if isinstance(node, ast.IfExp):
                            yield node, statement, []


def _entries(
    lines: Sequence[Line],
    calls: Mapping[int, list[int]],
    code: CodeType,
    node: ast.AST,
    statement: ast.stmt,
    turns: Turns,
) -> list[dict[int, int]]:
    """The lines at which the test is made, by turn; one entry for each time a turn makes it."""
    last = statement.body[0].lineno - 1 if isinstance(statement, ast.If) else statement.end_lineno or statement.lineno
    found: list[dict[int, int]] = []
    for indices in calls.values():
        if lines[indices[0]].code is not code:
            continue
        before = -1
        for index in indices:
            line = lines[index].line
            # a statement of several lines comes back to its first one
            if line == statement.lineno and not statement.lineno < before <= last:
                turn = turns.at(index + 1)
                if turn is not None:
                    place = next((f for f in found if turn not in f), None)
                    if place is None:
                        found.append(place := {})
                    place[turn] = index
            before = line
    return found


def _read(
    trace: Trace,
    code: CodeType,
    node: ast.If | ast.IfExp,
    following: list[ast.stmt],
    turns: Turns,
    found: list[dict[int, int]],
) -> Iterator[Branch]:
    arms = _arms(code, node, following, is_called=code is not turns.loop[0])
    if arms is None:
        return
    for entries in found:
        steps = sorted(entries)
        ends = {
            turn: min((f[turn] for f in found if f.get(turn, 0) > e), default=turns.end(turn))
            for turn, e in entries.items()
        }
        lines = [trace.lines[entries[turn]] for turn in steps]
        if isinstance(node, ast.IfExp) and all(_is_number(arm, lines[0]) for arm in (node.body, node.orelse)):
            continue  # a coefficient
        read = condition(node.test, [Frame(code, line.values) for line in lines], steps, trace.watch)
        if read is not None and all(read.number(turn) is not None for turn in range(len(turns.starts))):
            yield Branch(turns, read, entries, ends, arms, lines[0].depth)


def _is_number(node: ast.expr, line: Line) -> bool:
    """Is it plain arithmetic of numbers?"""
    plain = ast.Constant | ast.BinOp | ast.UnaryOp | ast.operator | ast.unaryop | ast.expr_context
    return all(
        isinstance(n, plain) or (isinstance(n, ast.Name) and n.id in line.values) for n in ast.walk(node)
    ) and not any(isinstance(n, ast.Constant) and not isinstance(n.value, int | float) for n in ast.walk(node))


def _arms(
    code: CodeType, node: ast.If | ast.IfExp, following: list[ast.stmt], is_called: bool
) -> tuple[list[Place], list[Place]] | None:
    """What runs where the test holds and where not; None where an arm leaves the loop or the function."""
    if isinstance(node, ast.IfExp):
        return [_extent(code, node.body)], [_extent(code, node.orelse)]
    arms = [list(node.body), list(node.orelse)]
    # a function that the loop calls ends its part of the turn with `return`
    leaving, ending = (ast.Break | ast.Raise, ast.Continue | ast.Return) if is_called else (
        ast.Break | ast.Raise | ast.Return, ast.Continue)  # fmt: skip
    if any(isinstance(n, leaving) for arm in arms for s in arm for n in (s, *_inside(s))):
        return None
    ends = [bool(arm) and isinstance(arm[-1], ending) for arm in arms]
    for arm, other in ((0, 1), (1, 0)):
        if ends[arm] and not ends[other]:
            arms[other] = [*arms[other], *following]
    taken, other_arm = ([_extent(code, s) for s in arm] for arm in arms)
    return taken, other_arm


def _extent(code: CodeType, node: ast.expr | ast.stmt) -> Place:
    end = (node.end_lineno or node.lineno, node.end_col_offset or node.col_offset)
    return code.co_filename, (node.lineno, node.col_offset), end


# both arms at every step -------------------------------------------------------------------------


def join(flat: Flat, found: Sequence[Branch]) -> None:
    """Put into every turn the operators of the arms that it does not run; `flat.absent` and `flat.paths` say which."""
    varying = [b for b in found if len({b.holds(turn) for turn in b.entries}) == 2]
    for turns in {b.turns.loop: b.turns for b in varying}.values():
        _pieces_first(flat, turns)
    outside = {b: sum(o.leads_to(b, side) for o in found for side in (True, False)) for b in varying}
    for branch in sorted(varying, key=lambda b: (-b.depth, -outside[b])):  # inner ones first
        before: dict[int, list[Op]] = {}
        for is_taken, arm in zip((True, False), branch.arms, strict=True):
            before = _fill(flat, branch, arm, is_taken, before)
        flat.read |= branch.condition.places
    flat.branches = varying


def _pieces_first(flat: Flat, turns: Turns) -> None:
    """Pieces of a list that every turn reads go before it: some turns may read theirs in an arm first."""
    read: dict[Arg, dict[int, list[Op]]] = {}
    first: dict[int, Op] = {}
    for op in flat.ops:
        frame = flat.frames.get(op.result)
        turn = turns.at(frame.at) if frame is not None else None
        if turn is not None:
            first.setdefault(turn, op)
            if op.result in flat.pieces:
                read.setdefault(op.args[0], {}).setdefault(turn, []).append(op)
    steady = [
        p
        for _, p in sorted(read.items(), key=str)
        if len(p) == len(turns.starts) and all(len(n) == 1 for n in p.values())
    ]
    moved = {op.result for pieces in steady for (op,) in pieces.values()}
    leading = {head.result: [pieces[turn][0] for pieces in steady] for turn, head in first.items()}
    code, line = turns.loop
    for turn, head in first.items():
        for op in leading[head.result]:
            flat.stacks[op.result] = (Source(code.co_filename, line),)
            flat.frames[op.result] = replace(flat.frames[op.result], at=turns.starts[turn] + 1)
    flat.ops = [
        each for op in flat.ops for each in (*leading.get(op.result, ()), *(() if op.result in moved else (op,)))
    ]


def _fill(
    flat: Flat, branch: Branch, arm: list[Place], is_taken: bool, before: dict[int, list[Op]]
) -> dict[int, list[Op]]:
    """The operators of one arm, at every turn that makes the test; those of the arm `before` it stand before."""
    members = _members(flat, branch, arm)
    run = [turn for turn in branch.entries if branch.holds(turn) == is_taken]
    whole = [members[turn] for turn in run if len(members[turn]) == len(members[run[len(run) // 2]])]
    if not all(map(_is_safe, zip(*whole, strict=True))):
        return members
    middle = run[len(run) // 2]  # the first may compute with numbers where others have states
    template = members[middle]
    behind = _behind(flat, branch.entries[middle], template)
    for turn, begin in branch.entries.items():
        if turn not in run:
            members[turn] = _stand_ins(flat, begin, template, before.get(turn, []), behind)
    for turn in branch.entries:
        for op in members[turn]:
            flat.paths[op.result] = ((branch, is_taken), *flat.paths.get(op.result, ()))
    return members


def _members(flat: Flat, branch: Branch, arm: list[Place]) -> dict[int, list[Op]]:
    """The operators that each turn runs in an arm."""
    members: dict[int, list[Op]] = {turn: [] for turn in branch.entries}
    for op in flat.ops:
        frame = flat.frames.get(op.result)
        turn = branch.turns.at(frame.at) if frame is not None else None
        if frame is None or turn not in members or not branch.entries[turn] < frame.at <= branch.ends[turn]:
            continue
        if any(
            s.file == f and first <= (s.line, s.start) < last for s in flat.stacks[op.result] for f, first, last in arm
        ):
            members[turn].append(op)
    return members


def _is_safe(ops: tuple[Op, ...]) -> bool:
    """May it run where the program would not: without drawing numbers, and with finite derivatives of finite numbers?"""
    kind = ops[0].kind
    if kind in ("dropout", "batch_norm"):
        return all(op.args[2 if kind == "dropout" else 5] is False for op in ops)
    if kind in ("remainder", "fmod", "floor_divide"):  # by a number, which is not zero where the arm runs
        return not isinstance(ops[0].args[1], Use)
    if kind == "pow":
        return all(isinstance(op.args[1], int) and op.args[1] >= 0 for op in ops)
    if kind == "linalg_vector_norm":  # of other orders it has no derivative at zero
        return all(op.args[1:2] in ((), (2,)) for op in ops)
    return kind in _SAFE or kind in GUARDED


# these too, if this argument is one at the steps that would not run them: they have poles there, or overflow
GUARDED = {"div": 1, "addcdiv": 2} | dict.fromkeys(
    "reciprocal sqrt rsqrt log log2 log10 log1p exp exp2 expm1 sinh cosh pow".split(), 0
)
_SAFE = frozenset("""
    add sub mul neg rsub lerp addcmul where masked_fill mm bmm matmul mv dot addmm addmv baddbmm addbmm einsum
    cross linalg_cross vecdot bilinear diff avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d scatter
    scatter_add index_add index_copy index_fill index_put _unsafe_index square
    linear conv1d conv2d conv3d tensordot sum mean cumsum amax amin max min maximum minimum clamp clamp_min clamp_max abs
    sign round floor ceil trunc frac relu sigmoid tanh silu gelu softplus sin cos softmax log_softmax
    logsumexp logaddexp layer_norm softsign leaky_relu elu selu celu hardtanh relu6 mish hardsigmoid hardswish log_sigmoid
    softshrink hardshrink tanhshrink threshold erf erfc atan asinh prod cumprod var rms_norm group_norm
    bitwise_and bitwise_or bitwise_xor bitwise_not logical_xor nan_to_num isnan isfinite isinf
    select slice index_select gather index getitem unbind split chunk split_with_sizes
    select_scatter slice_scatter diagonal_scatter diagonal diag_embed tril triu
    cat stack pad constant_pad_nd flip roll repeat repeat_interleave transpose t permute
    view reshape _unsafe_view flatten unflatten squeeze unsqueeze expand expand_as view_as unfold
    alias clone contiguous detach lift_fresh_copy to _to_copy type_as float double positive real imag conj _conj conj_physical complex polar
    view_as_real view_as_complex fft_fft fft_ifft fft_rfft fft_irfft fft_hfft fft_ihfft fft_fft2
    fft_ifft2 fft_rfft2 fft_irfft2 fft_fftn fft_ifftn fft_rfftn fft_irfftn gt lt ge le eq ne logical_and logical_or logical_not
    zeros ones full empty zeros_like ones_like full_like new_zeros new_ones new_full arange tensor lift_fresh scalar_tensor
    fill copy
    conv_transpose1d conv_transpose2d conv_transpose3d adaptive_avg_pool2d im2col col2im grid_sampler affine_grid_generator
    upsample_nearest1d upsample_nearest2d upsample_nearest3d _upsample_nearest_exact1d _upsample_nearest_exact2d
    _upsample_nearest_exact3d upsample_linear1d upsample_bilinear2d upsample_trilinear3d upsample_bicubic2d
    trace addr embedding diagonal_copy scatter_reduce tril_indices triu_indices linspace eye
""".split())  # fmt: skip


def _behind(flat: Flat, begin: int, members: list[Op]) -> int:
    """How many operators the line runs before it comes to an arm."""
    place = next((i for i, op in enumerate(flat.ops) if members and op is members[0]), 0)
    return place - min(_place(flat, begin), place)


def _place(flat: Flat, begin: int) -> int:
    """Where the operators of a line begin."""
    frames = (flat.frames.get(op.result) for op in flat.ops)
    return next((i for i, frame in enumerate(frames) if frame is not None and frame.at > begin), len(flat.ops))


def _stand_ins(flat: Flat, begin: int, template: list[Op], before: list[Op], behind: int) -> list[Op]:
    """Operators like those of the template, after `before`, or else after as many of the line as there."""
    last = max((i for i, op in enumerate(flat.ops) if op in before), default=None)
    place = _place(flat, begin) + behind if last is None else last + 1
    made: list[Op] = []
    for op in template:
        name = f"{op.result}.{len(flat.absent)}"
        made.append(replace(op, result=name))
        flat.absent.add(name)
        flat.stacks[name] = flat.stacks[op.result]
        flat.frames[name] = replace(flat.frames[op.result], at=begin + 1)
        if op.result in flat.paths:
            flat.paths[name] = flat.paths[op.result]
    flat.ops[place:place] = made
    return made
