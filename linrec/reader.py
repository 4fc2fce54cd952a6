"""Reading the text of a graph: recursive descent over its characters, with a place for every error.

The grammar stands in linrec.text. A `Reader` reads one text once: `graph()` returns a Graph whose
laws are not yet verified, or raises an `IRSyntaxError`. Looking ahead never moves `at`, so that a
statement ends where its line ends; time is linear in the text because nothing is read again.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import fields
from typing import Any, NoReturn, TypeVar, get_args

from linrec.errors import IRSyntaxError
from linrec.ir import Arg, Atom, Direction, Graph, Input, Kind, Op, Recurrence, Role, Source, Time, Type, Use
from linrec.sizes import Dim, Monomial, Size

DEPTH = 64  # of tuples within tuples
DIGITS = 100  # of an integer
DEGREE = 64  # factors in one term of a size
LENGTH = 1 << 24  # characters of a text

WORDS = {"true": True, "false": False, "none": None}
ESCAPES = {"\\": "\\", '"': '"', "n": "\n", "t": "\t", "r": "\r"}
# The fields of a recurrence that stand in braces, in the order in which they are written.
GROUPS = ("states", "members", "outputs")
FIELDS = tuple(f.name for f in fields(Recurrence) if f.name not in ("name", "time", *GROUPS))
DEFAULTS = Recurrence("", "", (), ())

_SKIP = re.compile(r"(?:\s++|//[^\n]*+)*+")
_BLANK = re.compile(r"[^\S\n]*")
NAME = re.compile(r"[\w.]+")
WORD = re.compile(r"[^\W0-9][\w.]*")
ATOM = re.compile(r"[\w.:]+")
_STRING = re.compile(r'"((?:[^"\\\n]|\\[^\n])*+)"')
_ESCAPE = re.compile(r"\\(u\{([0-9a-fA-F]{1,6})\}|.)", re.DOTALL)
_KEY = re.compile(r'([\w.]+|"(?:[^"\\\n]|\\[^\n])*+")\s*=')
_DELAY = re.compile(r"\[\s*([+-]?)\s*([0-9]+)\s*\]")
_INT = re.compile(r"[0-9]+")
_MAGNITUDE = r"(?:inf|nan|[0-9]+\.[0-9]*(?:[eE][+-]?[0-9]+)?|[0-9]+[eE][+-]?[0-9]+)"
_FLOAT = re.compile(rf"-?{_MAGNITUDE}(?![\w.])")
_COMPLEX = re.compile(rf"\(\s*(-?{_MAGNITUDE})\s*([+-])\s*({_MAGNITUDE})j\s*\)")
_SOURCE = re.compile(r"([^\n]*\S):([0-9]{1,9})(?::([0-9]{1,9})-([0-9]{1,9}))?")

Item = TypeVar("Item")


def quoted(text: str) -> str:
    """A string in double quotes, as the grammar has it."""
    shorts = {full: "\\" + short for short, full in ESCAPES.items()}
    return '"' + "".join(shorts.get(c) or (c if c.isprintable() else f"\\u{{{ord(c):x}}}") for c in text) + '"'


class Reader:
    """Recursive descent over the characters; `at` is where reading goes on."""

    def __init__(self, text: str, file: str) -> None:
        self.text, self.file, self.at = text, file, 0
        self.defined: dict[str, int] = {}  # value -> where it is defined
        self.returned = 0

    # -- characters --

    def fail(self, message: str, help: str, *, at: int | None = None, code: str = "LR6001") -> NoReturn:
        at = self.at if at is None else at
        start = self.text.rfind("\n", 0, at) + 1
        end = self.text.find("\n", at)
        raise IRSyntaxError(
            code,
            message,
            file=self.file,
            line=self.text.count("\n", 0, at) + 1,
            column=at - start + 1,
            text=self.text[start:] if end < 0 else self.text[start:end],
            help=help,
        )

    def expected(self, what: str, help: str) -> NoReturn:
        self.skip()
        found = NAME.match(self.text, self.at)
        seen = found[0][:40] if found else self.text[self.at : self.at + 1]
        self.fail(f"expected {what}, found {quoted(seen) if seen else 'the end of the text'}", help)

    def next(self) -> int:
        """Where the next character is that is neither blank nor comment."""
        found = _SKIP.match(self.text, self.at)
        return found.end() if found else self.at

    def skip(self) -> None:
        self.at = self.next()

    def match(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        found = pattern.match(self.text, self.next())
        if found:
            self.at = found.end()
        return found

    def sees(self, mark: str) -> bool:
        return self.text.startswith(mark, self.next())

    def takes(self, mark: str) -> bool:
        at = self.next()
        if not self.text.startswith(mark, at):
            return False
        self.at = at + len(mark)
        return True

    def needs(self, mark: str, help: str) -> None:
        if not self.takes(mark):
            self.expected(f"'{mark}'", help)

    def takes_word(self, word: str) -> bool:
        found = NAME.match(self.text, self.next())
        if found is None or found[0] != word:
            return False
        self.at = found.end()
        return True

    def end_line(self) -> str:
        """The comment at the end of a statement's line."""
        blank = _BLANK.match(self.text, self.at)
        self.at = blank.end() if blank else self.at
        comment = ""
        if self.text.startswith("//", self.at):
            end = self.text.find("\n", self.at)
            end = len(self.text) if end < 0 else end
            comment, self.at = self.text[self.at + 2 : end].strip(), end
        if self.at < len(self.text) and self.text[self.at] not in "\n}":
            self.expected("the end of the line", "write one statement a line")
        return comment

    # -- pieces --

    def listed(self, item: Callable[[], Item], close: str) -> tuple[Item, ...]:
        """Items with commas between them, up to the mark `close`."""
        items: list[Item] = []
        if self.takes(close):
            return ()
        while True:
            items.append(item())
            if self.takes(close):
                return tuple(items)
            if not self.takes(","):
                self.expected(f"',' or '{close}'", f"put a comma between two items, and '{close}' behind the last")

    def string(self, what: str) -> str:
        if not self.sees('"'):
            self.expected(what, 'write it in double quotes: "..."')
        start = self.at + 1
        found = self.match(_STRING)
        if found is None:
            self.fail("the string does not end on this line", 'close it with "; a line break is \\n', code="LR6002")
        for escape in _ESCAPE.finditer(found[1]):
            known = int(escape[2], 16) <= 0x10FFFF if escape[2] else escape[1] in ESCAPES
            if not known:
                at = start + escape.start()
                help = 'the escapes are \\\\ \\" \\n \\t \\r and \\u{1f600}'
                self.fail(f"no such escape: {escape[0]}", help, at=at, code="LR6002")
        return _ESCAPE.sub(lambda e: chr(int(e[2], 16)) if e[2] else ESCAPES[e[1]], found[1])

    def name(self, what: str) -> str:
        if self.sees('"'):
            return self.string(what)
        found = self.match(NAME)
        if found is None:
            self.expected(what, "a name has letters, digits, '_' and '.'; any other stands in double quotes")
        return found[0]

    def value(self) -> str:
        if not self.takes("%"):
            self.expected("a value", "values are written %name")
        return self.name("the name of a value")

    def use(self) -> Use:
        name = self.value()
        found = _DELAY.match(self.text, self.at)
        if found is None:
            if self.text.startswith("[", self.at):
                self.expected("a delay", "the previous step's value is %name[-1]")
            return Use(name)
        self.bounded(found[2])
        self.at = found.end()
        return Use(name, int(found[2]) if found[1] == "-" else -int(found[2]))

    def bounded(self, digits: str) -> None:
        if len(digits) > DIGITS:
            self.fail(f"a number of over {DIGITS} digits", "make it a tensor", code="LR6003")

    def dim(self) -> Dim:
        """A sum of products; normal form as in linrec.sizes, built at once so that long sums stay cheap."""
        start, total = self.at, dict[Monomial, int]()
        sign = -1 if self.takes("-") else 1
        while True:
            names, factor = self.term()
            total[names] = total.get(names, 0) + sign * factor
            if self.takes("+"):
                sign = 1
            elif self.takes("-"):
                sign = -1
            else:
                break
        kept = tuple(sorted((names, factor) for names, factor in total.items() if factor))
        if any(abs(factor) >= 10**DIGITS for _, factor in kept):
            self.fail(f"a number of over {DIGITS} digits", "make it a tensor", at=start, code="LR6003")
        if any(names for names, _ in kept):
            return Size(kept)
        return kept[0][1] if kept else 0

    def term(self) -> tuple[Monomial, int]:
        names: list[str] = []
        factor, count = 1, 0
        while True:
            count += 1
            number = self.match(_INT)
            if number:
                self.bounded(number[0])
                factor *= int(number[0])
                if self.at < len(self.text) and NAME.match(self.text, self.at):
                    self.expected("an operator", "a product is written 2*T; a float needs digits on both sides: 2.0")
            else:
                word = self.match(WORD)
                if word is None or word[0] in WORDS or word[0] in ("inf", "nan"):
                    self.at = word.start() if word else self.at
                    self.expected("a size", "a size is a sum of products of integers and names: 2*T - 1")
                names.append(word[0])
            if count > DEGREE + 1 or len(names) > DEGREE:
                self.fail(f"a product of over {DEGREE} factors", "name the product", code="LR6003")
            if not self.takes("*"):
                return tuple(sorted(names)), factor

    def arg(self, depth: int = 0) -> Arg:
        self.skip()
        start = self.text[self.at : self.at + 1]
        if start == "%":
            return self.use()
        if start == '"':
            return self.string("a string")
        if start == "!":
            self.at += 1
            atom = None if self.sees('"') else self.match(ATOM)
            return Atom(atom[0] if atom else self.string("a name of torch's"))
        if start == "[":
            if depth == DEPTH:
                self.fail(f"tuples nested deeper than {DEPTH}", "flatten them", code="LR6003")
            self.at += 1
            return self.listed(lambda: self.arg(depth + 1), "]")
        if start == "(":
            return self.complex()
        number = self.match(_FLOAT)
        if number:
            self.bounded_float(number[0], number.start())
            return float(number[0])
        word = NAME.match(self.text, self.at)
        if word and word[0] in WORDS:
            self.at = word.end()
            return WORDS[word[0]]
        if word is None and start != "-":
            self.expected(
                "an argument", "arguments are %values, sizes, numbers, strings, !names, true, false, none, [...]"
            )
        return self.dim()

    def complex(self) -> complex:
        found = self.match(_COMPLEX)
        if found is None:
            self.fail("expected a complex number", "write it (1.0+2.0j); tuples are written [a, b]")
        for part in (found[1], found[3]):
            self.bounded_float(part, found.start())
        return complex(float(found[1]), float(found[2] + found[3]))

    def bounded_float(self, text: str, at: int) -> None:
        if len(text) > DIGITS:
            self.fail(f"a number of over {DIGITS} digits", "17 digits say all a float holds", at=at, code="LR6003")

    def type(self) -> Type:
        dtype = self.name("an element type")
        self.needs("[", "a type is an element type and a shape: f32[B, 8]")
        return Type(dtype, self.listed(self.dim, "]"))

    def source(self, comment: str) -> Source | None:
        if comment.startswith('"'):
            quoted = _STRING.match(comment)
            place = _SOURCE.fullmatch("x" + comment[quoted.end() :]) if quoted else None
            if quoted is None or place is None:
                return None
            file = Reader(quoted[0], self.file).string("a file")
        else:
            place = _SOURCE.fullmatch(comment)
            if place is None:
                return None
            file = place[1]
        return Source(file, int(place[2]), int(place[3] or 0), int(place[4] or 0))

    # -- statements --

    def define(self, names: dict[str, int], name: str, at: int, shown: str) -> None:
        if name in names:
            line = self.text.count("\n", 0, names[name]) + 1
            self.fail(f"{shown} is defined twice, first on line {line}", "give it its own name", at=at, code="LR6102")
        names[name] = at

    def graph(self) -> Graph:
        if len(self.text) > LENGTH:
            self.fail(f"a text of over {LENGTH:,} characters", "split the program", at=0, code="LR6003")
        if not self.takes_word("graph"):
            self.expected("'graph'", "a text starts with: graph name(%x: f32[B, T]) {")
        name = self.name("the name of the graph")
        self.needs("(", "the inputs stand in parentheses: graph name(%x: f32[B, T]) {")
        inputs = self.listed(self.input, ")")
        self.needs("{", "the statements stand in braces: graph name(...) { ... }")
        times: list[Time] = []
        ops: list[Op] = []
        found: list[Recurrence] = []
        outputs: tuple[Arg, ...] | None = None
        effects: list[tuple[str, Use]] = []
        domains: dict[str, int] = {}
        while not self.takes("}"):
            self.skip()
            at = self.at
            if self.sees("%"):
                ops.append(self.op())
                continue
            if self.takes_word("time"):
                times.append(self.time())
                self.define(domains, times[-1].name, at, f"time {times[-1].name}")
            elif self.takes_word("recurrence"):
                found.append(self.recurrence())
            elif self.takes_word("return"):
                if outputs is not None:
                    self.fail("a second return", "return all values at once: return %y, %z", at=at)
                self.returned, outputs = at, self.outputs()
            elif self.takes_word("effect"):
                effects.append((self.string("the path of what changes"), self.use()))
            else:
                self.expected(
                    "a statement or '}'", "a statement starts with %name =, time, recurrence, return or effect"
                )
            self.end_line()
        if outputs is None:
            self.fail("no return", "end with: return %y, or return alone for no result", at=self.at - 1)
        self.skip()
        if self.at < len(self.text):
            self.expected("the end of the text", "a text holds one graph")
        return Graph(name, inputs, tuple(times), tuple(ops), outputs, tuple(effects), tuple(found))

    def input(self) -> Input:
        self.skip()
        at = self.at
        name = self.value()
        self.define(self.defined, name, at, f"%{name}")
        self.needs(":", "an input has a type: %x: f32[B, T]")
        kind = self.type()
        if not self.takes("="):
            return Input(name, kind)
        for role in get_args(Role):
            if self.takes_word(role):
                return Input(name, kind, role, self.string("where the tensor lives"))
        self.expected("a role", f"the roles are {', '.join(get_args(Role))}")

    def time(self) -> Time:
        name = self.name("the name of a time domain")
        self.needs("=", "a time domain has a length: time t = T")
        if "\n" in self.text[self.at : self.next()]:
            self.fail("expected a size, found the end of the line", "a time domain has a length: time t = T")
        trip = self.dim()
        direction: Direction = "backward" if self.on_line("backward") else "forward"
        return Time(name, trip, direction)

    def on_line(self, word: str) -> bool:
        """The word, if it stands before the line ends."""
        blank = _BLANK.match(self.text, self.at)
        name = NAME.match(self.text, blank.end() if blank else self.at)
        if name is None or name[0] != word:
            return False
        self.at = name.end()
        return True

    def outputs(self) -> tuple[Arg, ...]:
        blank = _BLANK.match(self.text, self.at)
        at = blank.end() if blank else self.at
        if at == len(self.text) or self.text[at] in "\n}" or self.text.startswith("//", at):
            return ()
        outputs = [self.arg()]
        while self.takes(","):
            outputs.append(self.arg())
        return tuple(outputs)

    def op(self) -> Op:
        self.skip()
        at = self.at
        result = self.value()
        self.define(self.defined, result, at, f"%{result}")
        self.needs("=", "an op is written %name = kind(...)")
        kind = self.name("the kind of the op")
        self.needs("(", "an op is written %name = kind(...)")
        attrs: dict[str, Arg] = {}
        given = self.listed(lambda: self.argument(attrs), ")")
        args = given[: len(given) - len(attrs)]
        made: Type | tuple[Type, ...] | None = None
        if self.takes_before_end(":"):
            made = self.listed(self.type, ")") if self.takes("(") else self.type()
        time = self.name("the name of a time domain") if self.takes_before_end("@") else None
        init: tuple[Arg, ...] = ()
        if self.on_line("init"):
            self.needs("(", "the values before the first step: init(%h0)")
            init = self.listed(self.arg, ")")
        return Op(result, kind, args, tuple(attrs.items()), made, time, init, self.source(self.end_line()))

    def takes_before_end(self, mark: str) -> bool:
        blank = _BLANK.match(self.text, self.at)
        at = blank.end() if blank else self.at
        if not self.text.startswith(mark, at):
            return False
        self.at = at + len(mark)
        return True

    def argument(self, attrs: dict[str, Arg]) -> Arg:
        """An argument; one with a name goes to `attrs` as well, and no other may follow it."""
        self.skip()
        at = self.at
        if _KEY.match(self.text, at) is None:
            if attrs:
                self.fail("an argument without a name behind one with a name", "put it first", at=at)
            return self.arg()
        key = self.name("the name of an argument")
        if key in attrs:
            self.fail(f"the argument '{key}' is given twice", "drop one", at=at)
        self.needs("=", "an argument with a name is written name=value")
        attrs[key] = self.arg()
        return attrs[key]

    def recurrence(self) -> Recurrence:
        name = self.name("the name of the recurrence")
        self.needs("@", "a recurrence has a time domain: recurrence r0 @t")
        time = self.name("the name of a time domain")
        groups: dict[str, tuple[str, ...]] = {}
        for group in GROUPS:
            if self.on_line(group):
                self.needs("(", f"{group} stand in parentheses: {group}(%h)")
                groups[group] = self.listed(self.value, ")")
            elif group != "outputs":
                self.expected(f"'{group}'", "a recurrence is written: recurrence r0 @t states(%h) members(%p, %h)")
        known: dict[str, str | tuple[str, ...]] = {}
        if self.takes_before_end("{"):
            self.listed(lambda: self.field(known), "}")
        given: dict[str, Any] = {**groups, **known}
        return Recurrence(name, time, **given)

    def field(self, known: dict[str, str | tuple[str, ...]]) -> None:
        self.skip()
        at = self.at
        key = self.name("a field")
        if key not in FIELDS or key in known:
            fact = "is given twice" if key in known else "is no field of a recurrence"
            self.fail(f"'{key}' {fact}", f"the fields are {', '.join(FIELDS)}", at=at)
        self.needs("=", "a field is written name=value")
        if isinstance(getattr(DEFAULTS, key), tuple):
            self.needs("[", f'{key} stand in brackets: {key}=["..."]')
            known[key] = self.listed(lambda: self.string("a string"), "]")
            return
        self.skip()
        at, value = self.at, self.string("a string")
        if key == "kind" and value not in get_args(Kind):
            self.fail(f'"{value}" is no kind of recurrence', f"the kinds are {', '.join(get_args(Kind))}", at=at)
        known[key] = value
