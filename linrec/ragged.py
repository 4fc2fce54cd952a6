"""Ragged batches: rows of different lengths, and rows that start afresh at given steps.

A row is cut into *segments* at its resets and at its length. Segments that start alike are rows of one batch of their
own, in which each ends at a step of its own (`linrec.emit.ended`): behind its end its last step stands in for whatever
the padding holds. Their results are laid back where they belong. So padding is never read, and a reset is exactly a
new sequence. Cost: a single run without resets; with them, segments are run with those of at most twice their length,
so at most log2 T runs and twice the steps that count. Rows that share what they end in (a count of steps), and
programs whose first steps are special, take a run for each distinct length.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from linrec.dtypes import LONG
from linrec.errors import StateError
from linrec.ir import Type, Use
from linrec.program import Recurring
from linrec.rows import require_plain, require_rows
from linrec.sizes import evaluate
from linrec.states import BATCH, State, batch_axis, is_shared
from linrec.writes import require_afresh


@dataclass(frozen=True)
class Segment:
    """Steps start .. stop - 1 of a row; `goes_on` if it starts from the row's given state."""

    row: int
    start: int
    stop: int
    goes_on: bool
    is_final: bool

    @property
    def long(self) -> int:
        """The number of steps."""
        return self.stop - self.start


Ran = tuple[list[Segment], list[Any], State]  # a group of segments, its results, and the states after it


def run_ragged(
    program: Recurring,
    tensors: Sequence[Tensor],
    state: State | None,
    lengths: Tensor | None,
    reset_mask: Tensor | None,
    *,
    return_state: bool,
) -> tuple[list[Any], State | None]:
    """Outputs, zero where a row has no step, and the state each row ends in.

    Args:
        program: the program to run; its rows must not depend on each other.
        tensors: its arguments, time axes T long.
        state: a state for each row, None to start afresh.
        lengths: (B,) integers, 0 .. T; all T steps if None.
        reset_mask: (B, T) booleans; true where a row starts afresh before it takes the step.
        return_state: whether the state is asked for.

    Raises StateError where rows cannot be told apart, or end in states of different make (LR4008), and where the first
    state is kept in a place that the program writes (LR4009).
    """
    sizes = program.lengths(tensors, wide=True)
    require_afresh(program.begins_in)
    if any(path.startswith("argument:") for path, _ in program.compiled.graph.effects):
        raise StateError(
            "LR4008", "the program writes to its arguments, which hold steps behind the ends of rows",
            help="give it a copy to write to inside the model: x = x.clone()",
        )  # fmt: skip
    if BATCH not in sizes or "T" not in sizes:
        raise StateError("LR4008", "lengths and reset_mask need a batch axis", help="give inputs of (batch, time, ...)")
    rows, steps = sizes[BATCH], sizes["T"]
    ends = _checked(lengths, "lengths", (rows,))
    resets = _checked(reset_mask, "reset_mask", (rows, steps))
    if ends is not None and bool(((ends < 0) | (ends > steps)).any()):
        raise StateError("LR4008", f"lengths must lie in 0 .. {steps}", help="lengths.clamp(0, x.shape[1])")
    batch = _Ragged(program, list(tensors), rows, steps, sizes)
    batch.require_rows(ends)
    ran = batch.run(state, batch.segments(ends, resets), return_state=return_state)
    base = [o if state is None else 0 for o in program.offsets]
    results = [batch.laid(n, ran, base[n]) for n in range(len(program.results))]
    return results, batch.final(ran) if return_state else None


def without_padding(args: Any, kwargs: Any, lengths: Any) -> Any:
    """Arguments to capture a program with: what lies behind a row's end, which may be anything, is its first step."""
    try:
        ends = torch.as_tensor(lengths)
    except (TypeError, ValueError, RuntimeError):
        return args, kwargs  # what lengths must be is said when they are used
    if ends.is_floating_point() or ends.is_complex():
        return args, kwargs

    def cleaned(x: Any) -> Any:
        if not isinstance(x, Tensor) or x.dim() < 2 or ends.shape != x.shape[:1] or not x.shape[1]:
            return x
        valid = torch.arange(x.shape[1], device=x.device) < ends.to(x.device).unsqueeze(1)
        return _where(valid, x.detach(), x.detach()[:, :1])

    return pytree.tree_map(cleaned, (args, kwargs))


def _checked(given: Tensor | None, name: str, shape: tuple[int, ...]) -> Tensor | None:
    if given is None:
        return None
    try:
        found = torch.as_tensor(given)
    except (TypeError, ValueError, RuntimeError) as error:
        raise StateError(
            "LR4008", f"{name} is a {type(given).__name__} that is no tensor: {error}", help="give a tensor of integers"
        ) from error
    is_count = not (found.is_floating_point() or found.is_complex() or (len(shape) == 1 and found.dtype == torch.bool))
    if tuple(found.shape) != shape or not is_count:
        raise StateError(
            "LR4008", f"{name} is {found.dtype} {list(found.shape)}, expected {'booleans' if len(shape) > 1 else 'integers'} {list(shape)}",
            help=f"one entry for each {'row and step' if len(shape) > 1 else 'row'} of the batch",
        )  # fmt: skip
    return found


class _Ragged:
    """One call: its inputs, and where their batch and time axes are."""

    def __init__(
        self, program: Recurring, tensors: list[Tensor], rows: int, steps: int, sizes: Mapping[str, int]
    ) -> None:
        self.program, self.tensors, self.rows, self.steps, self.sizes = program, tensors, rows, steps, sizes
        types = {i.name: i.type for i in program.graph.inputs} | {op.result: op.type for op in program.graph.ops}
        self.batch_of_input = [batch_axis(t) for t in program.types]
        outputs = program.graph.outputs[: len(program.results)]
        self.output_types = [types.get(o.name) if isinstance(o, Use) else None for o in outputs]
        self.batch_of_output = [batch_axis(t) for t in self.output_types]

    def require_rows(self, ends: Tensor | None) -> None:
        """Refuse, once for each program, one whose rows depend on each other."""
        stops = [self.steps] * self.rows if ends is None else ends.tolist()
        longest = max(range(self.rows), key=stops.__getitem__, default=None)
        require_plain(self.program, *self.output_types)
        if longest is None or stops[longest] == 0:
            return
        piece = Segment(longest, 0, stops[longest], True, True)
        require_rows(
            self.program, [self.cut(x, n, [piece], piece.stop) for n, x in enumerate(self.tensors)], self.sizes
        )

    # segments --------------------------------------------------------------------------------------

    def segments(self, ends: Tensor | None, resets: Tensor | None) -> list[Segment]:
        """All segments, rows in order, each row's in the order of time."""
        found: list[Segment] = []
        stops = [self.steps] * self.rows if ends is None else ends.tolist()
        for row, stop in enumerate(stops):
            marks = [] if resets is None else [t for t in resets[row].nonzero().flatten().tolist() if t < stop]
            cuts = sorted({0, *marks})
            for start, after in zip(cuts, [*cuts[1:], stop], strict=True):
                found.append(Segment(row, start, after, start not in marks, after == stop))
        return found

    def run(self, state: State | None, segments: list[Segment], *, return_state: bool) -> list[Ran]:
        """Segments that start alike as one batch each; those of resets with others of about their length."""
        is_reset = len(segments) > self.rows or not all(s.goes_on for s in segments)
        groups: defaultdict[tuple[int, bool], list[Segment]] = defaultdict(list)
        for s in segments:
            groups[s.long.bit_length() if is_reset else 0, s.goes_on and state is not None].append(s)
        return [
            ran for (_, goes_on), members in groups.items()
            for ran in self.group(state if goes_on else None, members, with_state=return_state)
        ]  # fmt: skip

    def group(self, state: State | None, members: list[Segment], *, with_state: bool) -> list[Ran]:
        """Segments that start alike: in one run, or where they cannot be, in one for each length."""
        program, lengths = self.program, [s.long for s in members]
        longest, device = max(lengths, default=0), self.tensors[0].device
        held = None
        if state is not None:
            held = self.state_rows(state, torch.tensor([s.row for s in members], device=device))
        inputs = [self.cut(x, n, members, longest) for n, x in enumerate(self.tensors)]
        sizes = {**self.sizes, "T": longest, BATCH: len(members)}
        if held is None and with_state and not all(lengths) and program.first_of_shapes(program.shapes(1)) is None:
            raise StateError(
                "LR4006", "a row without any step has no state: its first state is made from its first input",
                help="leave such rows out, or give the state they are in: state=...",
            )  # fmt: skip
        if not longest:
            after = {} if not with_state else held or program.first(inputs, sizes)
            return [(members, [None] * len(program.results), after)]
        if min(lengths) == longest:
            return [(members, *program.advance(inputs, held, sizes))]
        short = program.warmup if held is None else -1
        if min(lengths) > short:
            found = program.end(inputs, held, torch.tensor(lengths, device=device), with_state=with_state)
            if found is not None:
                return [(members, *found)]
        parts = [[s for s in members if s.long == long] for long in sorted(set(lengths))]
        if min(lengths) <= short < longest:  # those whose steps are all special, and the rest
            parts = [[s for s in members if s.long <= short], [s for s in members if s.long > short]]
        return [ran for part in parts for ran in self.group(state, part, with_state=with_state)]

    def cut(self, x: Tensor, n: int, members: list[Segment], longest: int) -> Tensor:
        """One argument for a group of segments, behind the end of each its last step."""
        batch, time = self.batch_of_input[n], self.program.inputs[n]
        if time is None or batch is None:
            if batch is not None:
                return x.index_select(batch, torch.tensor([s.row for s in members], device=x.device))
            if time is not None and any(s.start for s in members):
                raise StateError(
                    "LR4008", f"{self.program.names[n]} varies over time but has no batch axis",
                    help="expand it to (batch, time, ...): x.expand(batch, -1)",
                )  # fmt: skip
            return x if time is None else x.narrow(time, 0, longest)
        if all(s.long == longest for s in members):
            parts = [x.select(batch, s.row).narrow(time - (batch < time), s.start, longest) for s in members]
            return torch.stack(parts, batch)
        full = next(s for s in members if s.long == longest)  # for rows without any step
        given = [s if s.long else full for s in members]
        row, start, last = (torch.tensor(v) for v in zip(*((s.row, s.start, s.long - 1) for s in given), strict=True))
        step = torch.minimum(torch.arange(longest), last.unsqueeze(1)) + start.unsqueeze(1)
        place = (row.unsqueeze(1) * self.steps + step).flatten().to(x.device)
        moved = x.movedim((batch, time), (0, 1))
        found = moved.flatten(0, 1).index_select(0, place).view(len(members), longest, *moved.shape[2:])
        return found.movedim((0, 1), (batch, time))

    def state_rows(self, state: State, rows: Tensor) -> State:
        """The given state of some rows."""
        return {n: v if is_shared(n, v) else v.index_select(0, rows) for n, v in state.items()}

    def laid(self, n: int, ran: list[Ran], base: int) -> Any:
        """One result of all groups, each entry where it belongs; zero where there is none."""
        batch, time = self.batch_of_output[n], self.program.results[n]
        made = [(members, outputs[n]) for members, outputs, _ in ran if outputs[n] is not None]
        if not made:  # no row has a step
            return self.nothing(n)
        if not isinstance(made[0][1], Tensor):  # a number or a word that every call returns
            return made[0][1]
        if batch is None:
            raise StateError("LR4008", "a result has no batch axis", help="return one value for each row of the batch")
        flat: list[Tensor] = []
        steps = self.steps - base if isinstance(time, int) else 1
        device = made[0][1].device
        place = torch.full((self.rows, steps), -1, dtype=torch.long)
        count = 0
        for members, out in made:
            moved = out.movedim((batch, time), (0, 1)) if isinstance(time, int) else out.movedim(batch, 0).unsqueeze(1)
            many = moved.shape[1]
            late = max(s.long for s in members) - many  # the step of the first entry
            for i, s in enumerate(members):
                if isinstance(time, int) and s.long > late:
                    place[s.row, s.start + late - base : s.stop - base] = torch.arange(s.long - late) + count + i * many
                elif not isinstance(time, int) and s.is_final and s.long:
                    place[s.row, 0] = count + i
            flat.append(moved.flatten(0, 1))
            count += len(members) * many
        entries = torch.cat([*flat, torch.zeros_like(flat[0][:1])])  # entry -1 is zero
        place = torch.where(place < 0, count, place).to(device)
        whole = entries.index_select(0, place.flatten()).view(self.rows, steps, *entries.shape[1:])
        return whole.movedim((0, 1), (batch, time)) if isinstance(time, int) else whole.squeeze(1).movedim(0, batch)

    def nothing(self, n: int) -> Tensor | None:
        """Zeros in the shape of a result, None for what has no type."""
        type_ = self.output_types[n]
        if not isinstance(type_, Type):
            return None
        shape = [evaluate(d, self.sizes) for d in type_.shape]
        return torch.zeros(shape, dtype=getattr(torch, LONG[type_.dtype]), device=self.tensors[0].device)

    def final(self, ran: list[Ran]) -> State:
        """The state in which each row ends."""
        ends = [(members, after) for members, _, after in ran if any(s.is_final for s in members)]
        names = {tuple(sorted(after)) for _, after in ends}
        if len(names) > 1:
            raise StateError(
                "LR4008", f"some rows end within the first {self.program.warmup} steps, which are special, and some do not",
                help="run those rows apart from the others",
            )  # fmt: skip
        order = [s.row for members, _ in ends for s in members if s.is_final]
        back = torch.empty(len(order), dtype=torch.long)
        back[torch.tensor(order, dtype=torch.long)] = torch.arange(len(order))
        found: State = {}
        for name in ends[0][1] if ends else ():
            values = [after[name] for _, after in ends]
            if is_shared(name, values[0]) or any(v.shape[1:] != values[0].shape[1:] for v in values):
                if any(v.shape != values[0].shape or not torch.equal(v, values[0]) for v in values):
                    raise StateError(
                        "LR4008", f"rows end with different values of '{name}', which a batch has in common",
                        help="run rows of different lengths apart",
                    )  # fmt: skip
                found[name] = values[0]
                continue
            picked = [
                v.index_select(0, torch.tensor([i for i, s in enumerate(members) if s.is_final], device=v.device))
                for (members, _), v in zip(ends, values, strict=True)
            ]
            found[name] = torch.cat(picked).index_select(0, back.to(picked[0].device))
        return found


def _where(mask: Tensor, value: Tensor, other: Tensor) -> Tensor:
    """where with a mask of the leading axes."""
    return torch.where(mask.view(*mask.shape, *(1,) * (value.dim() - mask.dim())), value, other)
