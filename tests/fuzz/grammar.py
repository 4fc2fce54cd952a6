"""The grammar: programs of one or more loops, each with one or more recurrences, and what is true of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from programs import Drawn

from fuzz.choices import Choices
from fuzz.groups import Group, group
from fuzz.program import Generated, Writer
from fuzz.scope import Scope, Shape, param, stream

INDEXED = ("range", "range from one", "while")
INDEXED_BACKWARD = ("reversed range", "range down")
ITERATED = ("unbind", "iterate", "enumerate", "split")
ITERATED_BACKWARD = ("reversed unbind", "flipped unbind")


@dataclass(frozen=True)
class Output:
    """What a loop made: a value at every step, or the last one."""

    text: str
    shape: Shape
    is_sequence: bool


def write(c: Choices) -> Generated:
    """A program."""
    w = Writer(c.chance(40), c.chance(40), not c.chance(20))
    rest: Shape = c.pick([(3,), (3,), (4,), (4,), (5,), (), (2, 3), (3, 4), (2, 4)])
    shape: Shape = ("B", *rest) if w.has_batch else rest
    has_miss = c.chance(35)
    plan = c.pick(["one", "one", "one", "cascade", "cascade", "layers", "both ways", "heads"])
    w.traits.add(f"plan {plan}")
    opening = _main_input(c, w, shape)
    outputs: list[Output] = []
    if plan == "layers":
        first = _loop(c, w, shape, 1, miss_at=-1, sequences=[opening], wants_sequence=True)
        sequences = [(o.text, o.shape) for o in first if o.is_sequence]
        outputs = _loop(c, w, shape, 1, miss_at=0 if has_miss else -1, sequences=[*sequences, opening])
        if c.chance(40):
            outputs += first
    elif plan == "both ways":
        outputs = _loop(c, w, shape, 1, miss_at=-1, sequences=[opening], backward=False)
        outputs += _loop(c, w, shape, 1, miss_at=0 if has_miss else -1, sequences=[opening], backward=True)
    elif plan == "heads":
        outputs = _heads(c, w, shape, has_miss)
    else:
        count = {"one": 1, "cascade": 2 + c.chance(25)}[plan]
        outputs = _loop(c, w, shape, count, miss_at=c.below(count) if has_miss else -1, sequences=[opening])
    w.body.append(f"return {_returned(c, outputs)}")
    return w.finish()


def _main_input(c: Choices, w: Writer, shape: Shape) -> tuple[str, Shape]:
    w.arguments[w.name("x")] = Drawn(w.over_time(shape))
    w.shared[("stream", shape, "normal")] = "x"
    axis = w.time_axis
    w.body.append(f"T = {c.pick([f'x.shape[{axis}]', f'x.size({axis})'] + (['len(x)'] if axis == 0 else []))}")
    return "x", shape


def _returned(c: Choices, outputs: list[Output]) -> str:
    texts = [o.text for o in outputs]
    same = len({(o.shape, o.is_sequence) for o in outputs}) == 1
    if len(texts) == 1:
        return texts[0]
    if same and c.chance(40):
        return " + ".join(texts)
    if c.chance(20):
        return "{" + ", ".join(f"'y{i}': {t}" for i, t in enumerate(texts)) + "}"
    return "(" + ", ".join(texts) + ")"


# ---- one loop ----------------------------------------------------------------------------------------


class _Loop:
    """The header of a loop and how its body reads what varies over time."""

    def __init__(self, c: Choices, w: Writer, backward: bool | None) -> None:
        self.c, self.w = c, w
        self.backward = c.chance(25) if backward is None else backward
        forms = (*INDEXED_BACKWARD, *ITERATED_BACKWARD) if self.backward else (*INDEXED, "range", *ITERATED)
        self.form = c.pick(forms)
        w.traits.add(f"loop {self.form}")
        self.is_indexed = self.form in (*INDEXED, *INDEXED_BACKWARD)
        self.has_counter = self.is_indexed or self.form == "enumerate"
        self.first = 1 if self.form == "range from one" else 0
        self.iterated: list[str] = []

    def read(self, name: str) -> str:
        """One step of `name`."""
        axis = self.w.time_axis
        if self.is_indexed or (self.form == "enumerate" and self.iterated and name not in self.iterated):
            if self.c.chance(15):
                return f"{name}.select({axis}, t)"
            return f"{name}[:, t]" if axis else f"{name}[t]"
        if name not in self.iterated:
            self.iterated.append(name)
        return f"{name}_t.squeeze({axis})" if self.form == "split" else f"{name}_t"

    def header(self) -> list[str]:
        """The `for` or `while` line, written when the body is known."""
        fixed = {
            "range": "for t in range(T):",
            "range from one": "for t in range(1, T):",
            "reversed range": "for t in reversed(range(T)):",
            "range down": "for t in range(T - 1, -1, -1):",
        }
        if self.form in fixed:
            return [fixed[self.form]]
        if self.form == "while":
            return ["t = 0", "while t < T:"]
        axis = self.w.time_axis
        spellings: dict[str, Callable[[str], str]] = {
            "unbind": lambda n: f"{n}.unbind({axis})",
            "enumerate": lambda n: f"{n}.unbind({axis})",
            "iterate": lambda n: f"{n}.transpose(0, 1)" if axis else n,
            "split": lambda n: f"{n}.split(1, dim={axis})" if self.c.chance(60) else f"{n}.chunk(T, {axis})",
            "reversed unbind": lambda n: f"reversed({n}.unbind({axis}))",
            "flipped unbind": lambda n: f"{n}.flip({axis}).unbind({axis})",
        }
        how = spellings[self.form]
        names, iterables = [f"{n}_t" for n in self.iterated], [how(n) for n in self.iterated]
        many = f"zip({', '.join(iterables)})" if len(names) > 1 else iterables[0]
        if self.form == "enumerate":
            target = f"({', '.join(names)})" if len(names) > 1 else names[0]
            return [f"for t, {target} in enumerate({many}):"]
        return [f"for {', '.join(names)} in {many}:"]


def _loop(
    c: Choices,
    w: Writer,
    shape: Shape,
    count: int,
    *,
    miss_at: int,
    sequences: list[tuple[str, Shape]],
    wants_sequence: bool = False,
    backward: bool | None = None,
) -> list[Output]:
    """A loop with `count` recurrences, of which one may not be linear; gives what it made."""
    loop = _Loop(c, w, backward)
    s = Scope(c, w, loop.read, has_counter=loop.has_counter, sequences=sequences)
    if not loop.is_indexed:
        loop.read(sequences[0][0])  # something to iterate over
    groups: list[Group] = []
    before: list[str] = []
    after: list[str] = []
    for i in range(count):
        made = group(
            s, shape, has_miss=i == miss_at, first=loop.first, is_indexed=loop.is_indexed and not loop.backward
        )
        groups.append(made)
        before += made.before
        s.others += [] if made.is_complex else made.reads
        if made.is_linear:
            w.linear += made.count
        else:
            w.nonlinear += 1
    chosen = [groups[-1]] if count == 1 or (miss_at < 0 and c.chance(40)) else groups  # what is not read is not there
    outputs: list[Output] = []
    for made in chosen:
        outputs += _collected(s, loop, made, before, after, wants_sequence)
    if c.chance(25) and not wants_sequence:
        outputs += [Output(text, known, False) for text, known in groups[-1].final]
    if loop.form == "while":
        s.lines.append("t += 1")
    w.body += [*before, *loop.header(), *(f"    {line}" for line in s.lines), *after]
    return outputs


def _collected(
    s: Scope, loop: _Loop, made: Group, before: list[str], after: list[str], wants_sequence: bool
) -> list[Output]:
    """What is read from a recurrence, and how it is kept."""
    c, w, axis = s.c, s.w, s.w.time_axis
    if made.whole and c.chance(70):  # the states lie in an array or a list already
        name = w.name("y")
        after += [*made.whole_lines, f"{name} = {made.whole}"]
        return [Output(name, made.shape, True)]
    text, shape = c.pick(made.reads)
    text, shape = _readout(s, text, shape, made, wants_sequence)
    name = w.name("y")
    ways = ["append", "append", "cat", "append"]
    if loop.is_indexed and not made.is_complex:
        ways += ["prealloc", "prealloc"]
    if loop.backward:
        ways += ["insert", "reversed", "flip"]
    if not wants_sequence:
        ways += ["sum"]
        if loop.first == 0:
            ways += ["last"]
    way = c.pick(ways)
    w.traits.add(f"output {way}")
    if way == "last":
        s.lines.append(f"{name} = {text}")
        return [Output(name, shape, False)]
    if way == "sum":
        w.linear += 1
        before.append(
            f"{name} = {c.pick(['0.0', '0', f'torch.zeros_like({made.like})' if shape == made.shape else '0.0'])}"
        )
        s.lines.append(
            c.pick([f"{name} = {name} + {text}", f"{name} += {text}" if c.chance(30) else f"{name} = {text} + {name}"])
        )
        if loop.first:
            w.smallest = 2
        return [Output(name, shape, False)]
    if way == "prealloc":
        sizes = ", ".join(f"x.shape[{0 if axis else 1}]" if n == "B" else str(n) for n in w.over_time(shape))
        before.append(
            f"{name} = {c.pick([f'torch.zeros({sizes}, dtype=torch.float64)', f'x.new_zeros({sizes})', f'torch.empty({sizes}, dtype=x.dtype)'])}"
        )
        place = f"{name}[:, t]" if axis else f"{name}[t]"
        if loop.first:
            before.append(f"{name}[{':, 0' if axis else 0}] = {_first_output(s, made, shape)}")
        s.lines.append(f"{place} = {text}")
        return [Output(name, shape, True)]
    values = w.name("ys")
    opened = f"[{_first_output(s, made, shape)}]" if loop.first else "[]"
    step = f"{values}.append({text})"
    made_of = f"torch.stack({values}, {c.pick([str(axis), f'dim={axis}'])})"
    if way == "cat":
        opened = f"[({_first_output(s, made, shape)}).unsqueeze({axis})]" if loop.first else "[]"
        step, made_of = f"{values}.append(({text}).unsqueeze({axis}))", f"torch.cat({values}, dim={axis})"
    elif way == "insert":
        step = f"{values}.insert(0, {text})"
    elif way == "reversed":
        made_of = f"torch.stack({c.pick([f'{values}[::-1]', f'list(reversed({values}))'])}, {axis})"
    elif way == "flip":
        made_of = f"torch.stack({values}, {axis}).flip({axis})"
    before.append(f"{values} = {opened}")
    s.lines.append(step)
    after.append(f"{name} = {made_of}")
    return [Output(name, shape, True)]


def _first_output(s: Scope, made: Group, shape: Shape) -> str:
    """What stands at step 0 of the output of a loop that starts at step 1."""
    return (
        f"torch.zeros_like({made.like})"
        if shape == made.shape
        else f"torch.zeros_like({made.like}{_picked(s, shape, made.shape)})"
    )


def _picked(s: Scope, shape: Shape, of: Shape) -> str:
    """The index that takes a value of shape `of` to the smaller `shape`."""
    if len(shape) == len(of):
        return f"[..., :{shape[-1]}]"
    return "[..., 0]"


def _readout(s: Scope, text: str, shape: Shape, made: Group, wants_sequence: bool) -> tuple[str, Shape]:
    """A function of the state that is put out."""
    c = s.c
    if made.is_complex:
        return (
            f"{text}.real"
            if wants_sequence
            else c.pick([f"{text}.real", f"2 * {text}.real", f"({text}.real + {text}.imag)", text, f"{text}.abs()"])
        ), shape
    text = f"{text}.clone()" if made.is_in_place else text
    has_axis = shape[-1:] not in ((), ("B",))
    options: list[Callable[[], tuple[str, Shape]]] = [
        lambda: (text, shape), lambda: (text, shape), lambda: (f"torch.tanh({text})", shape), lambda: (f"({text} + {stream(s, shape)})", shape),
        lambda: (f"({text} * torch.sigmoid({stream(s, shape)}))", shape), lambda: (f"F.relu({text})", shape),
    ]  # fmt: skip
    if has_axis:
        n = shape[-1]
        assert isinstance(n, int)
        options += [
            lambda: (f"({text} @ {param(s, (n, 2), -0.9, 0.9)})", (*shape[:-1], 2)), lambda: (f"({text} @ {param(s, (n,), -0.9, 0.9)})", shape[:-1]),
            lambda: (f"({text} * {stream(s, shape)}).sum(-1)", shape[:-1]), lambda: (f"F.linear({text}, {param(s, (2, n), -0.9, 0.9)})", (*shape[:-1], 2)),
            lambda: (f"{text}[..., 0]", shape[:-1]), lambda: (f"torch.softmax({text}, -1)", shape), lambda: (f"{text}.mean(-1)", shape[:-1]),
            lambda: (f"{text}[..., :2]", (*shape[:-1], 2)),
        ]  # fmt: skip
    return c.pick(options)()


# ---- a loop over heads around the loop over time -----------------------------------------------------


def _heads(c: Choices, w: Writer, shape: Shape, has_miss: bool) -> list[Output]:
    """Two heads, or the sequences of a batch, one after the other."""
    axis = w.time_axis
    inner_name = w.name("xi")
    pairs = w.name("x")
    w.arguments[pairs] = Drawn((*w.over_time(shape), 2))
    start = len(w.body)
    found = _loop(c, w, shape, 1, miss_at=0 if has_miss else -1, sequences=[(inner_name, shape)], wants_sequence=True)
    lines, w.body = w.body[start:], w.body[:start]
    collected = w.name("heads")
    w.body += [f"{collected} = []", "for i in range(2):", f"    {inner_name} = {pairs}[..., i]"]
    w.body += [f"    {line}" for line in lines] + [f"    {collected}.append({found[0].text})"]
    w.linear, w.nonlinear = 2 * w.linear, 2 * w.nonlinear
    how = c.pick(
        [f"torch.stack({collected}, -1)", f"torch.cat({collected}, {axis})", f"({collected}[0] + {collected}[1])"]
    )
    return [Output(how, found[0].shape, True)]
