"""Groups of states: one recurrence each. How it is updated, where it is kept, what it is at first."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from programs import Drawn

from fuzz.misses import missed
from fuzz.operators import Value, affine
from fuzz.scope import Scope, Shape, coefficient, flag, mask, offset, param, stream
from fuzz.vocabulary import moved


@dataclass
class Group:
    """One recurrence in the body of a loop.

    Attributes:
        shape: of a state at one step.
        before: lines in front of the loop.
        like: a tensor of the state's shape, known before the loop.
        reads: states as they can be read after the update, with their shapes.
        final: states as they can be read after the loop.
        whole, whole_lines: all steps at once where the states are kept anyway, and the lines that make it.
        count: how many recurrences that are linear it may be split into.
    """

    shape: Shape
    like: str
    before: list[str] = field(default_factory=list)
    reads: list[tuple[str, Shape]] = field(default_factory=list)
    final: list[tuple[str, Shape]] = field(default_factory=list)
    whole: str = ""
    whole_lines: list[str] = field(default_factory=list)
    count: int = 1
    is_linear: bool = True
    is_complex: bool = False
    is_in_place: bool = False


Kind = Callable[[Scope, Group, bool, int, bool], None]


def group(s: Scope, shape: Shape, *, has_miss: bool, first: int, is_indexed: bool) -> Group:
    """A recurrence; `first` is the step at which the loop starts, `is_indexed` says that t counts up."""
    rest = shape[1:] if s.w.has_batch else shape
    kinds: list[Kind] = [*[_single] * 7, *[_coupled] * 2, *[_lagged] * 2]
    if len(rest) == 1:
        kinds += [_complex, _attention, _attention]
    if not has_miss:
        kinds += [_semiring] * 3
    main = s.sequences[-1][0]  # has the state's shape
    made = Group(shape, f"{main}[:, 0]" if s.w.time_axis else f"{main}[0]", is_linear=not has_miss)
    kind = s.c.pick(kinds)
    s.trait(f"group{kind.__name__}")
    kind(s, made, has_miss, first, is_indexed)
    return made


def _zeros(s: Scope, shape: Shape, dtype: str = "torch.float64") -> str:
    batch = f"x.shape[{0 if s.w.time_axis else 1}]"
    return f"torch.zeros({', '.join(batch if n == 'B' else str(n) for n in shape) or '()'}, dtype={dtype})"


def _initial(s: Scope, made: Group) -> str:
    """What the state is before the first step."""
    rest = made.shape[1:] if s.w.has_batch else made.shape
    options: list[Callable[[], str]] = [lambda: _zeros(s, made.shape), lambda: f"torch.zeros_like({made.like})", lambda: made.like, lambda: f"torch.ones_like({made.like})",
               lambda: _argument(s, made.shape), lambda: f"0.5 * {made.like}"]  # fmt: skip
    if rest:
        options += [
            lambda: f"{param(s, rest, -0.9, 0.9)}.expand_as({made.like})",
            lambda: f"{made.like}.new_zeros({made.like}.shape)",
        ]
    return s.c.pick(options)()


def _argument(s: Scope, shape: Shape) -> str:
    name = s.w.name("h_given")
    s.w.arguments[name] = Drawn(shape)
    s.trait("given state")
    return name


# ---- the update --------------------------------------------------------------------------------------


def _update(s: Scope, own: str, others: list[str], shape: Shape, has_miss: bool) -> str:
    """The new value of a state as an expression of the old ones."""
    value = Value(own)
    if has_miss:
        value = missed(s, value, shape)
    value = affine(s, value, shape, s.c.pick([0, 1, 1, 1, 2, 2, 3]))
    for other in others:
        more = affine(s, Value(other), shape, s.c.pick([0, 0, 1]))
        value = Value(f"({value.text} {s.c.pick(['+', '-'])} 0.3 * {more.text})", value.gain + 0.3 * more.gain)
    free = not has_miss and not others and value.gain <= 1 and s.c.chance(25)  # an integrator may grow, slowly
    a = value.text if free else f"({s.c.pick([0.95, 0.9, 0.8, 0.6]) / value.gain:.3g} * {value.text})"
    h, u = (own if not has_miss else a), offset(s, shape)
    forms: list[Callable[[], str]] = [
        lambda: f"{a} + {u}", lambda: f"{a} + {u}", lambda: f"{u} + {a}", lambda: f"{a} - {u}", lambda: f"{_gate(s, shape)} * {a} + {u}",
        lambda: _convex(s, h, a, u, shape), lambda: f"{a} + 0.1 * ({u} - {a})",
    ]  # fmt: skip
    if not s.is_number:
        forms += [
            lambda: f"torch.where({mask(s, shape)}, {a} + {u}, {h})", lambda: _frozen(s, h, a, u, shape),
            lambda: f"({a}) * (1 - {flag(s, shape)}) + {u}", lambda: f"({a}).masked_fill({mask(s, shape)}, 0.0) + {u}",
            lambda: f"torch.where({mask(s, shape)}, {u}, {a} + {u})", lambda: f"{a} * ~{mask(s, shape)} + {u}",
            lambda: f"torch.add({u}, {a}, alpha=0.9)", lambda: f"torch.lerp({a}, {u}, 0.3)", lambda: f"({a}).add({u})",
        ]  # fmt: skip
    if s.has_counter:
        forms += [
            lambda: (
                f"{a} + {u} if {s.c.pick(['t % 3 != 2', 't < 5', 't > 0', 't != T - 1'])} else {s.c.pick(['0.5 * ', ''])}{a}"
            )
        ]
    return s.c.pick(forms)()


def _gate(s: Scope, shape: Shape) -> str:
    return coefficient(s, shape, positive=True)


def _convex(s: Scope, h: str, a: str, u: str, shape: Shape) -> str:
    z = s.w.name("g")
    s.lines.append(f"{z} = {coefficient(s, shape, positive=True)}")
    return f"{z} * {a} + (1 - {z}) * {u}"


def _frozen(s: Scope, h: str, a: str, u: str, shape: Shape) -> str:
    m = s.w.name("g")
    s.lines.append(f"{m} = {flag(s, shape)}")
    return f"{m} * ({a} + {u}) + (1 - {m}) * {h}"


Spelling = Callable[[Scope, Group, bool, int], None]


# ---- one state ---------------------------------------------------------------------------------------


def _single(s: Scope, made: Group, has_miss: bool, first: int, is_indexed: bool) -> None:
    spellings: list[Spelling] = [
        _local,
        _local,
        _local,
        _new_name,
        _in_dict,
        _in_tuple,
        _in_named_tuple,
        _in_place,
        _copied,
        _in_list,
        _in_function,
        _inner_loop,
    ]
    if not first:
        spellings += [_number, _none]
    if s.w.is_module:
        spellings += [_attribute] * 3
    if is_indexed:
        spellings += [_in_array] * 2
    if s.has_counter:
        spellings += [_ring]
    spelling = s.c.pick(spellings)
    s.trait(f"state{spelling.__name__}")
    spelling(s, made, has_miss, first)


def _known(made: Group, text: str) -> None:
    made.reads = made.final = [(text, made.shape)]


def _local(s: Scope, made: Group, has_miss: bool, first: int) -> None:
    h = s.w.name("h")
    made.before.append(f"{h} = {_initial(s, made)}")
    s.lines.append(f"{h} = {_update(s, h, [], made.shape, has_miss)}")
    _known(made, h)


def _new_name(s: Scope, made: Group, has_miss: bool, first: int) -> None:
    h = s.w.name("h")
    made.before.append(f"{h} = {_initial(s, made)}")
    s.lines += [f"{h}_new = {_update(s, h, [], made.shape, has_miss)}", f"{h} = {h}_new"]
    _known(made, h)


def _in_dict(s: Scope, made: Group, has_miss: bool, first: int) -> None:
    d = s.w.name("state")
    made.before.append(f"{d} = {{'h': {_initial(s, made)}}}")
    s.lines.append(f"{d}['h'] = {_update(s, d + chr(91) + repr('h') + chr(93), [], made.shape, has_miss)}")
    _known(made, f"{d}['h']")


def _in_tuple(s: Scope, made: Group, has_miss: bool, first: int) -> None:
    p, h = s.w.name("pair"), s.w.name("h")
    made.before.append(f"{p} = ({_initial(s, made)}, 0)")
    s.lines.append(f"{h}, n = {p}")
    s.lines.append(f"{p} = ({_update(s, h, [], made.shape, has_miss)}, 0)")
    _known(made, f"{p}[0]")


def _in_named_tuple(s: Scope, made: Group, has_miss: bool, first: int) -> None:
    if "class State(NamedTuple):" not in s.w.globals:
        s.w.globals += ["class State(NamedTuple):", "    h: torch.Tensor"]
    p = s.w.name("state")
    made.before.append(f"{p} = State({_initial(s, made)})")
    new = _update(s, f"{p}.h", [], made.shape, has_miss)
    s.lines.append(s.c.pick([f"{p} = State({new})", f"{p} = {p}._replace(h={new})"]))
    _known(made, f"{p}.h")


def _attribute(s: Scope, made: Group, has_miss: bool, first: int) -> None:
    h = f"self.{s.w.name('h')}"
    made.before.append(f"{h} = {_initial(s, made)}")
    s.lines.append(f"{h} = {_update(s, h, [], made.shape, has_miss)}")
    _known(made, h)


def _in_place(s: Scope, made: Group, has_miss: bool, first: int) -> None:
    h = s.w.name("h")
    made.before.append(f"{h} = ({_initial(s, made)}).clone()")
    if has_miss:
        new = _update(s, h, [], made.shape, has_miss)
        s.lines.append(f"{h}.copy_({new})")
    else:
        a, u = _gate(s, made.shape), offset(s, made.shape)
        styles = [[f"{h} *= {a}", f"{h} += {u}"], [f"{h}.mul_({a})", f"{h}.add_({u}, alpha=0.5)"]]
        styles += [[f"{h}.sub_(0.5 * {h})", f"{h} -= {u}"], [f"{h}.mul_({a}).add_({u})"]]
        styles += [[f"{h}.neg_()", f"{h} /= 1.5", f"{h} += {u}"], [f"{h}.mul_(0.5).addcmul_({u}, {u})"]]
        if not made.shape or made.shape == ("B",):
            styles = styles[:3]
        else:
            styles += [
                [f"{h}[..., 0] *= 0.5", f"{h} *= 0.9", f"{h} += {u}"],
                [f"{h}[..., 1:] = 0.5 * {h}[..., :-1] + {u}[..., 1:]", f"{h} *= 0.9"],
            ]
            styles += [[f"{h}.mul_({a})", f"{h}[..., 0] = {u}[..., 0]"], [f"{h}.lerp_({u}, 0.3)"]]
        s.lines += s.c.pick(styles)
    made.is_in_place = True
    made.reads = [(f"{h}", made.shape)]
    made.final = [(h, made.shape)]


def _copied(s: Scope, made: Group, has_miss: bool, first: int) -> None:
    h = s.w.name("h")
    made.before.append(f"{h} = ({_initial(s, made)}).clone()")
    s.lines.append(f"{h}.copy_({_update(s, h, [], made.shape, has_miss)})")
    made.is_in_place = True
    made.reads = [(f"{h}", made.shape)]
    made.final = [(h, made.shape)]


def _in_list(s: Scope, made: Group, has_miss: bool, first: int) -> None:
    hs = s.w.name("hs")
    made.before.append(f"{hs} = [{_initial(s, made)}]")
    s.lines.append(f"{hs}.append({_update(s, f'{hs}[-1]', [], made.shape, has_miss)})")
    _known(made, f"{hs}[-1]")
    cut = "" if first else "[1:]"
    made.whole, made.whole_lines = f"{hs}_all", [f"{hs}_all = torch.stack({hs}{cut}, {s.w.time_axis})"]


def _in_function(s: Scope, made: Group, has_miss: bool, first: int) -> None:
    h, step = s.w.name("h"), s.w.name("step")
    made.before.append(f"{h} = {_initial(s, made)}")
    inner = replace(s, lines=[])
    new = _update(inner, "state", [], made.shape, has_miss)
    made.before += [f"def {step}(state):", *(f"    {line}" for line in inner.lines), f"    return {new}"]
    s.lines.append(f"{h} = {step}({h})")
    _known(made, h)


def _inner_loop(s: Scope, made: Group, has_miss: bool, first: int) -> None:
    """A constant number of equal steps for each step of time."""
    h = s.w.name("h")
    made.before.append(f"{h} = {_initial(s, made)}")
    inner = replace(s, lines=[])
    new = _update(inner, h, [], made.shape, has_miss)
    s.lines += [f"for k in range({s.c.pick([2, 3])}):", *(f"    {line}" for line in inner.lines), f"    {h} = {new}"]
    if s.c.chance(50):
        s.lines.append(f"{h} = 0.9 * {h} + {offset(s, made.shape)}")
    _known(made, h)


def _number(s: Scope, made: Group, has_miss: bool, first: int) -> None:
    h = s.w.name("h")
    made.before.append(f"{h} = {s.c.pick(['0', '0.0', '1.0'])}")
    s.is_number = True
    new = _update(s, h, [], made.shape, False)
    s.is_number = False
    s.lines.append(f"{h} = {new}")
    if has_miss:
        s.lines.append(f"{h} = {missed(s, Value(h), made.shape).text}")
    s.lines.append(f"{h} = {h} * 0.5 + {stream(s, made.shape)}")
    _known(made, h)


def _none(s: Scope, made: Group, has_miss: bool, first: int) -> None:
    h = s.w.name("h")
    made.before.append(f"{h} = None")
    u = stream(s, made.shape)
    inner = replace(s, lines=[])
    new = _update(inner, h, [], made.shape, has_miss)
    if not inner.lines and s.c.chance(50) and "\n" not in new:
        s.lines.append(f"{h} = {u} if {h} is None else ({new})")
    else:
        s.lines += [
            f"if {h} is None:",
            f"    {h} = {u}",
            "else:",
            *(f"    {line}" for line in inner.lines),
            f"    {h} = {new}",
        ]
    _known(made, h)


def _in_array(s: Scope, made: Group, has_miss: bool, first: int) -> None:
    """The output array is the state."""
    y, axis = s.w.name("out"), s.w.time_axis
    shape = [f"x.shape[{0 if axis else 1}]" if n == "B" else str(n) for n in s.w.over_time(made.shape)]
    shape[axis] = "T" if first else "T + 1"
    made.before.append(f"{y} = {s.c.pick(['torch.zeros', 'torch.empty'])}({', '.join(shape)}, dtype=torch.float64)")
    lead = ":, " * axis
    made.before.append(f"{y}[{lead}0] = {_initial(s, made)}")
    old, new = ("t - 1", "t") if first else ("t", "t + 1")
    copied = s.c.pick(["", ".clone()"])
    s.lines.append(f"{y}[{lead}{new}] = {_update(s, f'{y}[{lead}{old}]{copied}', [], made.shape, has_miss)}")
    made.reads = [(f"{y}[{lead}{new}]", made.shape)]
    made.final = [(f"{y}[{lead}-1]", made.shape)]
    made.whole = y if first else f"{y}[{lead}1:]"
    made.is_in_place = True


def _ring(s: Scope, made: Group, has_miss: bool, first: int) -> None:
    """Several states in turn, as seasons."""
    r, m = s.w.name("ring"), s.c.pick([2, 3])
    start = _initial(s, made)
    made.before.append(f"{r} = [{start} for _ in range({m})]")
    s.lines.append(f"{r}[t % {m}] = {_update(s, f'{r}[t % {m}]', [], made.shape, has_miss)}")
    made.reads = [(f"{r}[t % {m}]", made.shape)]
    made.final = [(f"{r}[0]", made.shape)]
    made.count = m


# ---- two states, and earlier ones --------------------------------------------------------------------


def _coupled(s: Scope, made: Group, has_miss: bool, first: int, is_indexed: bool) -> None:
    h, g = s.w.name("h"), s.w.name("h")
    made.before += [f"{h} = {_initial(s, made)}", f"{g} = {_initial(s, made)}"]
    one = _update(s, h, [g], made.shape, has_miss)
    if s.c.chance(50):  # the second reads the first's new value
        s.trait("coupled in turn")
        s.lines.append(f"{h} = {one}")
        s.lines.append(f"{g} = {_update(s, g, [h], made.shape, False)}")
    else:
        s.lines.append(f"{h}, {g} = ({one}, {_update(s, g, [h], made.shape, False)})")
    made.reads = made.final = [(h, made.shape), (g, made.shape)]


def _lagged(s: Scope, made: Group, has_miss: bool, first: int, is_indexed: bool) -> None:
    """Reads of the state two steps back."""
    axis = s.w.time_axis
    ways = ["names", "names", "list", "deque"]
    if is_indexed:
        ways += ["array", "condition"] if not first else ["array"]
    way = s.c.pick(ways)
    s.trait(f"lag {way}")
    start = _initial(s, made)
    if way == "names":
        h, g = s.w.name("h"), s.w.name("h")
        made.before += [f"{h} = {start}", f"{g} = torch.zeros_like({made.like})"]
        s.lines.append(f"{h}, {g} = ({_update(s, h, [g], made.shape, has_miss)}, {h})")
        made.reads = made.final = [(h, made.shape), (g, made.shape)]
        return
    if way == "array":
        y, lead = s.w.name("out"), ":, " * axis
        shape = [f"x.shape[{0 if axis else 1}]" if n == "B" else str(n) for n in s.w.over_time(made.shape)]
        shape[axis] = "T + 2"
        made.before.append(f"{y} = torch.zeros({', '.join(shape)}, dtype=torch.float64)")
        new = _update(s, f"{y}[{lead}t + 1]", [f"{y}[{lead}t]"], made.shape, has_miss)
        s.lines.append(f"{y}[{lead}t + 2] = {new}")
        made.reads, made.final = [(f"{y}[{lead}t + 2]", made.shape)], [(f"{y}[{lead}-1]", made.shape)]
        made.whole = f"{y}[{lead}2:]"
        made.is_in_place = True
        return
    hs = s.w.name("hs")
    old = f"{hs}[-2]"
    if way == "deque":
        made.before.append(f"{hs} = deque([{start}, torch.zeros_like({made.like})], maxlen=2)")
        old = s.c.pick([f"{hs}[0]", f"{hs}[-2]"])
    elif way == "condition":
        made.before.append(f"{hs} = []")
        zero = f"torch.zeros_like({made.like})"
        h, g = s.w.name("h"), s.w.name("h")
        s.lines += [f"{h} = {hs}[t - 1] if t >= 1 else {zero}", f"{g} = {hs}[t - 2] if t >= 2 else {zero}"]
        s.lines.append(f"{hs}.append({_update(s, h, [g], made.shape, has_miss)})")
        made.reads = made.final = [(f"{hs}[-1]", made.shape)]
        made.whole, made.whole_lines = f"{hs}_all", [f"{hs}_all = torch.stack({hs}, {axis})"]
        return
    else:
        made.before.append(f"{hs} = [{start}, torch.zeros_like({made.like})]")
        made.whole, made.whole_lines = f"{hs}_all", [f"{hs}_all = torch.stack({hs}[{1 if first else 2}:], {axis})"]
    s.lines.append(f"{hs}.append({_update(s, f'{hs}[-1]', [old], made.shape, has_miss)})")
    made.reads = made.final = [(f"{hs}[-1]", made.shape)]


# ---- complex states, matrix states, other semirings --------------------------------------------------


def _complex(s: Scope, made: Group, has_miss: bool, first: int, is_indexed: bool) -> None:
    h, n = s.w.name("h"), made.shape[-1]
    made.is_complex = True
    made.before.append(f"{h} = {_zeros(s, made.shape, 'torch.complex128')}")
    made.like = _zeros(s, made.shape, "torch.complex128")
    nu, theta = param(s, (n,), -2.0, 0.5), param(s, (n,), 0.1, 0.9)
    options: list[Callable[[], str]] = [
        lambda: f"torch.exp(torch.complex(-torch.exp({nu}), {theta}))", lambda: f"torch.polar({theta}, {nu})", lambda: "(0.6 + 0.5j)",
        lambda: f"torch.exp(-torch.exp({nu}) + 1j * {theta})", lambda: f"(0.9 * torch.exp(1j * {theta}))",
        lambda: f"torch.exp(torch.complex(-F.softplus({stream(s, made.shape)}), {theta}))", lambda: f"({theta} * 1j)",
    ]  # fmt: skip
    lam = s.let(s.c.pick(options)())
    old = h
    if has_miss:
        old = s.c.pick(
            [
                "{h} * {h}.conj() * 0.01",
                "{h} / (1 + {h}.abs())",
                "torch.tanh({h})",
                "{h} * {h} * 0.001",
                "torch.exp(1j * {h}.angle())",
            ]
        )
        s.trait(f"miss complex {old}")
        old = f"({old.format(h=h)})"
    u = stream(s, made.shape)
    forms = [
        f"{lam} * {old} + {u}",
        f"{u} + {old} * {lam}",
        f"{lam} * {old} + (0.5 + 0.2j) * {u}",
        f"torch.where({mask(s, made.shape)}, {lam} * {old} + {u}, {old})",
    ]
    forms += [
        f"{lam} * {old} + torch.complex({u}, {u})",
        f"{lam} * (0.5 * {old} - 0.3j * {old}) + {u}",
        f"0.5 * {lam} * {old}.roll(1, -1) + {u}",
        f"{lam} * {old}.conj() + {u}",
        f"{lam} * (0.6 * {old} + 0.3 * {old}.real) + {u}",
    ]
    s.lines.append(f"{h} = {s.c.pick(forms)}")
    made.reads = [(h, made.shape)]
    made.final = [(s.c.pick([h, f"torch.view_as_real({h})"]), made.shape)]


def _attention(s: Scope, made: Group, has_miss: bool, first: int, is_indexed: bool) -> None:
    """A matrix state with outer products: linear attention, gates, the delta rule."""
    S, n = s.w.name("S"), made.shape[-1]
    vector, c = made.shape, s.c
    k = f"F.normalize({stream(s, vector)}, dim=-1)"
    if c.chance(50):
        name = s.w.name("k")
        s.lines.append(f"{name} = {k}")
        k = name
    v = stream(s, vector)
    outer = c.pick(
        [
            f"{k}.unsqueeze(-1) * {v}.unsqueeze(-2)",
            f"torch.einsum('...i,...j->...ij', {k}, {v})",
            f"{k}[..., :, None] @ {v}[..., None, :]",
        ]
    )
    lead = vector[:-1]
    z = stream(s, lead, "gate") if lead else stream(s, (), "gate")
    each = stream(s, vector, "gate")
    old = f"({missed(s, Value(S), (*lead, n, n)).text})" if has_miss else S
    beta = f"{z}[..., None]"
    kS = c.pick(
        [
            f"({k}.unsqueeze(-2) @ {old}).squeeze(-2)",
            f"torch.einsum('...i,...ij->...j', {k}, {old})",
            f"({k}.unsqueeze(-1) * {old}).sum(-2)",
        ]
    )
    eye = f"torch.eye({n}, dtype=torch.float64)"
    kk = f"{k}.unsqueeze(-1) * {k}.unsqueeze(-2)"
    updates = {
        "sum": f"0.5 * {old} + {outer}" if has_miss else f"{old} + {outer}",
        "retention": f"0.9 * {old} + {outer}",
        "scalar gate": f"{z}[..., None, None] * {old} + {outer}",
        "row gate": f"{each}.unsqueeze(-1) * {old} + {outer}",
        "column gate": f"{old} * {each}.unsqueeze(-2) + {outer}",
        "delta": f"{old} + {k}.unsqueeze(-1) * ({beta} * ({v} - {kS})).unsqueeze(-2)",
        "delta product": f"({eye} - {z}[..., None, None] * {kk}) @ {old} + {z}[..., None, None] * ({outer})",
        "gated delta": f"0.9 * {old} - {k}.unsqueeze(-1) * (0.9 * {beta} * {kS}).unsqueeze(-2) + {outer}",
        "two-sided": f"0.8 * ({eye} - 0.5 * {kk}) @ {old} @ ({eye} - 0.5 * {kk}).transpose(-1, -2) + {outer}",
    }
    which = c.pick(list(updates))
    s.trait(f"matrix state {which}")
    if has_miss and which in ("delta", "gated delta"):
        updates[which] = f"0.9 * ({updates[which]})"
    made.shape = (*lead, n, n)
    made.like = _zeros(s, made.shape)
    made.before.append(f"{S} = {made.like}")
    s.lines.append(f"{S} = {updates[which]}")
    q = stream(s, vector)
    o = s.w.name("o")
    s.lines.append(
        f"{o} = "
        + c.pick(
            [
                f"({q}.unsqueeze(-2) @ {S}).squeeze(-2)",
                f"torch.einsum('...i,...ij->...j', {q}, {S})",
                f"({q}.unsqueeze(-1) * {S}).sum(-2)",
            ]
        )
    )
    made.reads, made.final = [(o, vector)], [(S, made.shape)]
    if first:
        made.final = []
    made.shape, made.like = vector, _zeros(s, vector)


def _semiring(s: Scope, made: Group, has_miss: bool, first: int, is_indexed: bool) -> None:
    """Running maxima, minima and logsumexps."""
    h, c, u = s.w.name("h"), s.c, stream(s, made.shape)
    has_axis = made.shape[-1:] not in ((), ("B",))
    which = c.pick(["max", "min", "log"])
    join = {
        "max": ["torch.maximum({}, {})", "torch.max({}, {})"],
        "min": ["torch.minimum({}, {})", "torch.min({}, {})"],
        "log": ["torch.logaddexp({}, {})"],
    }[which]
    start = c.pick(
        [
            made.like,
            {
                "max": f"torch.full_like({made.like}, -math.inf)",
                "min": f"torch.full_like({made.like}, math.inf)",
                "log": f"torch.full_like({made.like}, -10.0)",
            }[which],
        ]
    )
    a = c.pick(
        [
            param(s, made.shape[-1:] if has_axis else (), -0.3, 0.3),
            "0.1",
            stream(s, made.shape, "gate"),
            f"F.logsigmoid({stream(s, made.shape)})",
        ]
    )
    added = c.pick([h, f"({h} + {a})", f"({h} - {a})", f"({a} + {h})", f"torch.sub({h}, {u})"])
    if added == h and a != "0.1" and c.chance(50):
        added = f"torch.rsub({a}, {h})"
    is_exact = which != "log" and c.chance(15)  # numbers of few bits, which other types hold as well
    if is_exact:
        u = s.let(f"torch.round(8 * {u}) / 8")
        start, a = f"0 * {made.like}", "0.125"
        there = c.pick(["{}.float()", "{}.to(torch.float32)"]).format(h)
        added = c.pick(["{}.type_as({})", "({}.to({}) - 0.125)", "{}.double() + 0 * {}"]).format(there, u)
    for _ in range(0 if is_exact else c.pick([0, 2, 3, 4])):
        added = moved(s, added, made.shape)
    forms = [c.pick(join).format(added, u), c.pick(join).format(u, added)]
    forms += {
        "max": [f"F.relu({added} + {u})", f"({added} + {u}).clamp(min=-0.5)", f"torch.clamp_min({u} + {added}, 0.125)"],
        "min": [f"({added} + {u}).clamp(max=0.5)", f"torch.clamp_max({added} + {u}, 0.125)"],
        "log": [],
    }[which]
    if has_axis and not is_exact:
        n = made.shape[-1]
        W = param(s, (n, n), -0.9, 0.9)
        paths = c.pick(
            [(f"({h}.unsqueeze(-1) + {W})", -2), (f"({h}.unsqueeze(-2) + {W})", -1), (f"({W} + {h}[..., None, :])", -1)]
        )
        forms += [
            {
                "max": f"{paths[0]}.amax({paths[1]}) + {u}",
                "min": f"{paths[0]}.amin({paths[1]}) + {u}",
                "log": f"torch.logsumexp({paths[0]}, {paths[1]}) + {u}",
            }[which]
        ] * 2
        if which != "log":
            forms.append(f"torch.{which}({paths[0]}, dim={paths[1]}).values + {u}")
    new = c.pick(forms)
    if c.chance(20):
        new = f"torch.where({mask(s, made.shape)}, {new}, {h})"
    if new not in forms[:2]:  # states that stay infinite are NaN as soon as a matrix that has zeros multiplies them
        start = start.replace("math.inf", "10.0")
    s.trait(f"semiring {which}")
    made.before.append(f"{h} = {start}")
    s.lines.append(f"{h} = {new}")
    _known(made, h)
