"""Scopes: what an expression inside a loop may read. Inputs of the step, coefficients, masks, functions of time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from programs import Drawn, Size

from fuzz.choices import Choices
from fuzz.program import Writer

Shape = tuple[Size, ...]  # of the value at one step, the batch "B" first where there is one

BRANCHES_ON_TIME = (
    "(0.9 if t % 2 == 0 else 0.4)", "(0.9 if t < 3 else 0.5)", "(0.0 if t == T - 1 else 0.8)", "(0.0 if t == 0 else 0.8)",
    "(0.7 if t % 3 else 0.1)", "(0.3 if t >= T - 2 else 0.9)", "(0.2 if t > 100 else 0.8)",
)  # fmt: skip
FUNCTIONS_OF_TIME = (
    "t / (t + 1)", "1 / (t + 2)", "0.9 ** t", "(t % 3) * 0.3", "min(t, 4) / 5", "math.exp(-0.1 * t)", "math.cos(0.3 * t)",
    "t / T", "max(0.2, 1 - 0.05 * t)", "float(t > 2)", "(t % 2 == 0) * 0.5", "1 / math.sqrt(t + 1)", "(T - t) / T",
)  # fmt: skip


@dataclass
class Scope:
    """The body of a loop being written."""

    c: Choices
    w: Writer
    read: Callable[[str], str]  # the text of one step of an argument that varies over time
    lines: list[str] = field(default_factory=list)
    has_counter: bool = False
    is_number: bool = False  # the state may still be a Python number: arithmetic only
    is_complex: bool = False
    others: list[tuple[str, Shape]] = field(default_factory=list)  # states of other recurrences, known at this step
    sequences: list[tuple[str, Shape]] = field(default_factory=list)  # what earlier loops made, over all steps

    def let(self, text: str) -> str:
        """A name for an expression; sometimes the expression itself."""
        if self.c.chance(70):
            return text
        name = self.w.name("v")
        self.lines.append(f"{name} = {text}")
        return name

    def trait(self, name: str) -> None:
        self.w.traits.add(name)


def param(s: Scope, shape: Shape, low: float, high: float) -> str:
    """A value that does not vary over time: an argument, a parameter, a buffer, a tensor of the module or a global."""
    key = ("param", shape, low, high)
    if key in s.w.shared and s.c.chance(30):
        return s.w.shared[key]
    name = s.w.name("p")
    kind = s.c.pick(["argument", "argument", "parameter", "parameter", "buffer", "attribute", "global"])
    sizes = ", ".join(map(str, shape))
    value = f"torch.rand({sizes}) * {high - low!r} + {low!r}" if shape else f"torch.tensor({(low + 2 * high) / 3!r})"
    if "B" in shape or kind == "argument" or (not s.w.is_module and kind != "global"):
        s.w.arguments[name] = Drawn(shape, low, high)
    elif kind == "global":
        count = 1
        for n in shape:
            assert isinstance(n, int)
            count *= n
        name = name.upper()
        made = f"torch.linspace({low!r}, {high!r}, {count}, dtype=torch.float64)"
        s.w.globals.append(f"{name} = {made}.reshape({sizes})" if shape else f"{name} = {(low + 2 * high) / 3!r}")
        s.trait("global")
        if not shape:
            return name  # a number: not to be taken for a tensor
    else:
        made = {
            "parameter": f"self.{name} = nn.Parameter({value})",
            "buffer": f"self.register_buffer('{name}', {value})",
            "attribute": f"self.{name} = ({value}).double()",
        }[kind]
        s.w.constructor.append(made)
        name = f"self.{name}"
    s.w.shared[key] = name
    return name


def stream(s: Scope, shape: Shape, kind: str = "normal") -> str:
    """One step of something that varies over time; "normal", "gate" (0 to 1) or "mask"."""
    key = ("stream", shape, kind)
    fitting = [name for name, known in s.sequences if known == shape and kind == "normal"]
    if fitting and s.c.chance(70):
        return s.read(fitting[0])
    if key in s.w.shared and s.c.chance(50):
        return s.read(s.w.shared[key])
    name = s.w.name({"normal": "x", "gate": "z", "mask": "m"}[kind])
    whole = s.w.over_time(shape)
    s.w.arguments[name] = {
        "normal": Drawn(whole), "gate": Drawn(whole, 0.2, 0.95), "mask": Drawn(whole, kind="mask"),
    }[kind]  # fmt: skip
    s.w.shared[key] = name
    return s.read(name)


def _rest(shape: Shape) -> Shape:
    return shape[1:] if shape[:1] == ("B",) else shape


def _widened(text: str, dims: int) -> str:
    """A value of the first axes made to broadcast against more axes behind them."""
    return text + ".unsqueeze(-1)" * dims


def mask(s: Scope, shape: Shape) -> str:
    """A boolean that does not depend on the state and broadcasts to `shape`."""
    rest = _rest(shape)
    how = s.c.pick(["stream", "input", "row", "fixed"])
    if how == "row" and rest and s.w.has_batch:
        return _widened(stream(s, ("B",), "mask"), len(rest))
    if how == "input":
        return f"({stream(s, shape)} > 0)"
    if how == "fixed" and rest:
        return f"({param(s, rest[-1:], -0.9, 0.9)} > 0)"
    return stream(s, shape, "mask")


def flag(s: Scope, shape: Shape) -> str:
    """0 or 1 as a number, not depending on the state."""
    if s.c.chance(30) and s.has_counter:
        return s.c.pick(["(1.0 if t % 4 else 0.0)", "(0.0 if t == 3 else 1.0)", "float(t != 2)"])
    return f"{mask(s, shape)}.to(torch.float64)"


def coefficient(s: Scope, shape: Shape, *, positive: bool = False) -> str:
    """A factor of at most one in size that does not depend on the state and broadcasts to `shape`."""
    rest = _rest(shape)
    low = 0.3 if positive else -0.9
    simple = ["0.7" if positive else s.c.pick(["0.9", "0.5", "-0.4"])]
    options: list[Callable[[], str]] = [
        lambda: simple[0],
        lambda: param(s, rest[-1:], low, 0.95),
        lambda: param(s, rest, low, 0.95),
        lambda: param(s, (), low, 0.95),
        lambda: f"torch.sigmoid({param(s, rest[-1:], -1.0, 1.5)})",
        lambda: f"torch.exp(-torch.exp({param(s, rest[-1:], -2.0, 0.5)}))",
        lambda: f"(1 - {param(s, rest[-1:], 0.1, 0.9)})",
        lambda: stream(s, shape, "gate"),
        lambda: f"torch.sigmoid({stream(s, shape)})",
        lambda: f"(1 - {stream(s, shape, 'gate')})",
        lambda: f"torch.exp(-F.softplus({stream(s, shape)}))",
    ]
    if not positive:
        options.append(lambda: f"torch.tanh({stream(s, shape)})")
    if rest and s.w.has_batch:
        options.append(lambda: _widened(stream(s, ("B",), "gate"), len(rest)))
    if len(rest) > 1:
        options.append(lambda: _widened(param(s, rest[:-1], low, 0.95), 1))
    if s.has_counter:
        options.append(lambda: _table(s, rest[-1:] if s.c.chance(70) else (), low))
        options.append(lambda: f"({s.c.pick(FUNCTIONS_OF_TIME[:1] if positive else FUNCTIONS_OF_TIME)})")
        options.append(lambda: s.c.pick(BRANCHES_ON_TIME[:2] if positive else BRANCHES_ON_TIME))
    fitting = [text for text, known in s.others if known == shape]
    if fitting:
        options += [lambda: f"torch.sigmoid({fitting[-1]})"] * 4
    if s.is_number:
        options = options[:4]
    return s.let(s.c.pick(options)())


def _table(s: Scope, shape: Shape, low: float) -> str:
    """A row of a table over t that has no batch axis."""
    s.trait("table")
    name = s.w.name("table")
    s.w.arguments[name] = Drawn(("T", *shape), low, 0.95)
    return f"{name}[t]"


def matrix(s: Scope, rows: Size, columns: Size) -> tuple[str, bool]:
    """A matrix whose rows and columns have absolute sums of at most one, and whether each sequence has its own."""
    assert isinstance(rows, int) and isinstance(columns, int)
    bound = 1 / max(rows, columns)
    if s.c.chance(15):
        s.trait("varying matrix")
        return f"({bound!r} * torch.tanh({stream(s, _batched(s, (rows, columns)))}))", s.w.has_batch
    if s.w.has_batch and s.c.chance(10):
        return param(s, ("B", rows, columns), -bound, bound), True
    if s.c.chance(10):
        return f"(torch.softmax({param(s, (rows, columns), -0.9, 0.9)}, 1) * {bound!r})", False
    return param(s, (rows, columns), -bound, bound), False


def _batched(s: Scope, shape: Shape) -> Shape:
    return ("B", *shape) if s.w.has_batch else shape


def offset(s: Scope, shape: Shape) -> str:
    """An input of the step: something of that shape that does not depend on the state."""
    rest = _rest(shape)
    base = stream(s, shape)
    options: list[Callable[[], str]] = [
        lambda: base,
        lambda: base,
        lambda: f"0.5 * {base}",
        lambda: f"torch.tanh({base})",
        lambda: f"{param(s, rest[-1:], -0.9, 0.9)} * {base}",
        lambda: f"({base} + {param(s, rest[-1:], -0.9, 0.9)})",
        lambda: f"{stream(s, shape, 'gate')} * {base}",
    ]
    if rest:
        options.append(lambda: f"({base} @ {param(s, (rest[-1], rest[-1]), -0.5, 0.5)})")
    fitting = [text for text, known in s.others if known == shape]
    if fitting:
        options += [lambda: f"({base} + {fitting[-1]})", lambda: f"torch.tanh({fitting[-1]})"] * 3
    mixed = [(n, known) for n, known in s.sequences if _rest(known) and rest and known[:-1] == shape[:-1]]
    if mixed:
        name, known = mixed[0]
        options.append(lambda: f"{s.read(name)} @ {param(s, (known[-1], rest[-1]), -0.4, 0.4)}")
    return s.let(s.c.pick(options)())
