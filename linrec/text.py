"""The text of a graph: `parse(show(graph)) == graph`, types of constants and source lines included.

`parse` is total: text that is not a graph, or is the text of a graph that breaks a law of
`linrec.ir`, raises an `IRSyntaxError` that says where, and nothing else. It never evaluates what it
reads; work grows linearly with the length of the text, and length, nesting, numbers and degrees are
bounded. `show` refuses (VerifyError) only what those bounds could not read back.

    graph   = "graph" name "(" [input {"," input}] ")" "{" {statement newline} "}"
    input   = value ":" type ["=" role string]
    statement = "time" name "=" size ["backward"]
              | value "=" name "(" args ")" [":" type | ":" "(" types ")"] ["@" name] ["init" "(" args ")"]
              | "recurrence" name "@" name "states" "(" values ")" "members" "(" values ")"
                ["outputs" "(" values ")"] ["{" fields "}"]
              | "return" args | "effect" string use
    arg     = use | size | float | complex | string | atom | "true" | "false" | "none" | "[" args "]"
    use     = value ["[" delay "]"];  value = "%" name;  atom = "!" name;  size = ["-"] term {("+" | "-") term}
    name    = letters, digits, "_" and ".", or a string;  "// file:line" behind an op is its source

Inside brackets a line may end anywhere; other comments, from `//` to the end of the line, say nothing.
"""

from __future__ import annotations

from collections.abc import Iterable

from linrec.errors import VerifyError
from linrec.ir import Arg, Atom, Graph, Input, Op, Recurrence, Source, Type, Use, verify
from linrec.reader import ATOM, DEFAULTS, DEGREE, DEPTH, DIGITS, FIELDS, GROUPS, NAME, WORD, WORDS, Reader, quoted
from linrec.sizes import Dim, Monomial, Size

_WIDTH = 100  # a longer list of inputs is written one a line
_SOURCE_COLUMN = 56


# ---- writing ----


def show(graph: Graph) -> str:
    """The text of a graph, ending in a newline."""
    head = [f"%{_name(i.name)}: {_type(i.type)}{_where(i)}" for i in graph.inputs]
    joined = ", ".join(head)
    if len(joined) > _WIDTH:
        joined = "\n    " + ",\n    ".join(head) + "\n"
    lines = [f"graph {_name(graph.name)}({joined}) {{"]
    for time in graph.times:
        lines.append(f"  time {_name(time.name)} = {_dim(time.trip)}" + " backward" * (time.direction == "backward"))
    lines += [_op(op) for op in graph.ops]
    lines += [_recurrence(r) for r in graph.recurrences]
    lines.append(f"  return {_args(graph.outputs)}".rstrip())
    lines += [f"  effect {quoted(path)} {_arg(use)}" for path, use in graph.effects]
    return "\n".join(lines) + "\n}\n"


def show_arg(arg: Arg) -> str:
    """The text of one argument."""
    return _arg(arg)


def show_op(op: Op) -> str:
    """The line of one op, without its indent."""
    return _op(op).strip()


def _where(given: Input) -> str:
    return "" if given.role == "input" and not given.path else f" = {given.role} {quoted(given.path)}"


def _op(op: Op) -> str:
    args = [_arg(a) for a in op.args] + [f"{_name(key)}={_arg(a)}" for key, a in op.attrs]
    text = f"  %{_name(op.result)} = {_name(op.kind)}({', '.join(args)})"
    if isinstance(op.type, tuple):
        text += f" : ({', '.join(map(_type, op.type))})"
    elif op.type is not None:
        text += f" : {_type(op.type)}"
    if op.time is not None:
        text += f" @{_name(op.time)}"
    if op.init:
        text += f" init({_args(op.init)})"
    return text if op.source is None else f"{text:<{_SOURCE_COLUMN}}  // {_source(op.source)}"


def _source(source: Source) -> str:
    file = source.file
    if not file.isprintable() or file != file.strip() or file[:1] in ("", '"'):
        file = quoted(file)
    return f"{file}:{source.line}" + (f":{source.start}-{source.end}" if source.start or source.end else "")


def _recurrence(found: Recurrence) -> str:
    text = f"  recurrence {_name(found.name)} @{_name(found.time)}"
    for group in GROUPS:
        names: tuple[str, ...] = getattr(found, group)
        if names or group != "outputs":
            text += f" {group}({', '.join(f'%{_name(name)}' for name in names)})"
    known = [(key, getattr(found, key)) for key in FIELDS if getattr(found, key) != getattr(DEFAULTS, key)]
    return text + (f" {{{', '.join(f'{key}={_arg(value)}' for key, value in known)}}}" if known else "")


def _type(kind: Type) -> str:
    return f"{_name(kind.dtype)}[{', '.join(map(_dim, kind.shape))}]"


def _args(args: Iterable[Arg], depth: int = 0) -> str:
    return ", ".join(_arg(a, depth) for a in args)


def _arg(arg: Arg, depth: int = 0) -> str:
    match arg:
        case None:
            return "none"
        case bool():
            return "true" if arg else "false"
        case Use():
            return f"%{_name(arg.name)}" + (f"[{-arg.delay:+d}]" if arg.delay else "")
        case Size() | int():
            return _dim(arg)
        case float():
            return repr(arg)
        case complex():
            sign = "" if repr(arg.imag).startswith("-") else "+"
            return f"({arg.real!r}{sign}{arg.imag!r}j)"
        case Atom():
            return f"!{arg}" if ATOM.fullmatch(arg) else f"!{quoted(arg)}"
        case str():
            return quoted(arg)
        case tuple():
            if depth == DEPTH:
                raise VerifyError("LR6110", f"tuples nested deeper than {DEPTH} have no text", help="flatten them")
            return f"[{_args(arg, depth + 1)}]"
    raise VerifyError("LR6110", f"a {type(arg).__name__} has no text", help="make it an input of the graph")


def _dim(dim: Dim) -> str:
    terms: tuple[tuple[Monomial, int], ...] = dim.terms if isinstance(dim, Size) else (((), dim),)
    for names, factor in terms:
        if abs(factor) >= 10**DIGITS or len(names) > DEGREE:
            raise VerifyError("LR6110", f"a number of over {DIGITS} digits has no text", help="make it a tensor")
        for name in names:
            if not WORD.fullmatch(name) or name in WORDS or name in ("inf", "nan"):
                raise VerifyError("LR6110", f"a length named '{name}' has no text", help="name it with a letter first")
    return str(dim)


def _name(name: str) -> str:
    return name if NAME.fullmatch(name) else quoted(name)


# ---- reading ----


def parse(text: str, file: str = "<text>") -> Graph:
    """The graph that `text` is; `file` is the name that errors give. Raises IRSyntaxError only."""
    reader = Reader(text, file)
    graph = reader.graph()
    try:
        verify(graph)
    except VerifyError as error:
        at = reader.defined.get(_subject(error.message, reader.defined), reader.returned)
        reader.fail(error.message, error.help or "", at=at, code=error.code)
    return graph


def _subject(message: str, names: Iterable[str]) -> str:
    # verify starts a sentence with the value it is about, or with the first value of a cycle.
    about = message.removeprefix("cycle without delay: ").removeprefix("%")
    return max((name for name in names if about.startswith(name)), key=len, default="")
