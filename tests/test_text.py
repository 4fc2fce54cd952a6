"""A graph's text reads back as the same graph, and any other text is refused at a place."""

from __future__ import annotations

import math
import time
from pathlib import Path
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from seeded.programs import PROGRAMS
from strategies import graphs

from linrec.errors import IRSyntaxError, VerifyError
from linrec.ir import Atom, Graph, Input, Op, Recurrence, Source, Time, Type, Use
from linrec.reader import LENGTH
from linrec.sizes import size
from linrec.text import parse, show

NET = """\
graph net(%x: f32[B, T, 1], %A: f32[8, 8] = buffer "A", %c: f32[] = captured "closure:c") {
  time t = T
  time b = 2*T - 1 backward
  %h0 = zeros([B, 8], dtype=!float32) : f32[B, 8]
  %u = signal(%x, 1, 0, 1) : f32[B, 1] @t                 // /path/net.py:10
  %p = matmul(%h[-1], %A) : f32[B, 8] @t                  // /path/net.py:11:4-19
  %h = add(%p, %u, alpha=1) : f32[B, 8] @t init(%h0)
  %m = max(%x, 1) : (f32[B, 1], i64[B, 1])
  %y = stack(%h, 1) : f32[B, T, 8]
  recurrence r0 @t states(%h) members(%p, %h) outputs(%h) {kind="lti", structure="dense", form="convolution"}
  return %y, [%h0, none]
  effect "h" %h0
}
"""

SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large]


def test_example_reads_and_prints_itself() -> None:
    graph = parse(NET)
    assert show(graph) == NET
    assert graph.inputs[1] == Input("A", Type("f32", (8, 8)), "buffer", "A")
    assert graph.times == (Time("t", size("T")), Time("b", size("T") * 2 - 1, "backward"))
    h = Op("h", "add", (Use("p"), Use("u")), (("alpha", 1),), Type("f32", (size("B"), 8)), "t", (Use("h0"),))
    assert graph.op("h") == h
    assert graph.op("p").args == (Use("h", 1), Use("A"))
    assert graph.op("p").source == Source("/path/net.py", 11, 4, 19)
    assert graph.op("h0").attrs == (("dtype", Atom("float32")),)
    assert graph.recurrences == (
        Recurrence("r0", "t", ("h",), ("p", "h"), ("h",), "lti", structure="dense", form="convolution"),
    )
    assert graph.outputs == (Use("y"), (Use("h0"), None))
    assert graph.effects == (("h", Use("h0")),)


@settings(max_examples=60, deadline=None, suppress_health_check=SLOW)
@given(graphs())
def test_round_trip(graph: Graph) -> None:
    again = parse(show(graph))
    assert again == graph
    assert repr(again) == repr(graph)  # 1, 1.0 and True are equal; sources do not count in equality
    assert show(again) == show(graph)


CONSTANTS = [
    (0, "0"),
    (-7, "-7"),
    (True, "true"),
    (None, "none"),
    (1.0, "1.0"),
    (-0.0, "-0.0"),
    (1e-300, "1e-300"),
    (1e16, "1e+16"),
    (math.inf, "inf"),
    (-math.inf, "-inf"),
    (math.nan, "nan"),
    (complex(0.0, -0.0), "(0.0-0.0j)"),
    (complex(-math.inf, math.nan), "(-inf+nanj)"),
    ("", '""'),
    ('say "x"\n\\', '"say \\"x\\"\\n\\\\"'),
    ("\ud83d\ude00", '"\\u{d83d}\\u{de00}"'),  # two lone surrogates, which are no emoji
    (Atom("float32"), "!float32"),
    (Atom("cuda:0"), "!cuda:0"),
    (Atom("a b"), '!"a b"'),
    (size("T"), "T"),
    (size("T") * size("T") * -2 + 1, "-2*T*T + 1"),
    ((), "[]"),
    (((1,), Use("x")), "[[1], %x]"),
    (10**99, str(10**99)),
]


@pytest.mark.parametrize(("value", "text"), CONSTANTS, ids=[text for _, text in CONSTANTS])
def test_constants(value: object, text: str) -> None:
    again = parse(f"graph g(%x: f32[]) {{\n  return {text}\n}}").outputs[0]
    assert repr(again) == repr(value)
    assert type(again) is type(value)
    assert f"  return {text}\n" in show(Graph("g", (Input("x", Type("f32", ())),), (), (), (again,)))


def test_layout_is_free_inside_brackets() -> None:
    text = """
    // a comment before
    graph g(   // and here
        %x: f32[B,
                T],
    )
    """
    with pytest.raises(IRSyntaxError, match="expected a value"):
        parse(text)
    graph = parse(
        text.replace("T],", "T]") + "{ %y = add(\n  %x, // not a source\n 1 - 1 + 2*3*T*0\n)\n return // none\n}"
    )
    assert graph.op("y").args == (Use("x"), 0)
    assert graph.outputs == ()


def test_many_inputs_stand_one_a_line() -> None:
    graph = Graph("g", tuple(Input(f"x{i}", Type("f32", (8, 8))) for i in range(20)), (), (), ())
    assert max(map(len, show(graph).splitlines())) < 40
    assert parse(show(graph)) == graph


# what to replace in NET, by what, and line, column and words of the error
BROKEN = [
    (NET, "", 1, 1, "expected 'graph', found the end of the text"),
    ("graph net", "grph net", 1, 1, "expected 'graph', found \"grph\""),
    ("%x: f32[B, T, 1]", "%x", 1, 13, "expected ':'"),
    ('buffer "A"', "buffer A", 1, 52, "where the tensor lives"),
    ('buffer "A"', 'register "A"', 1, 45, "expected a role"),
    ("net.py", 'n"et', 0, 0, ""),
    ("time t = T", "time t = ", 2, 11, "expected a size"),
    ("time t = T", "time t = 2T", 2, 13, "expected an operator"),
    ("time t = T", "time b = T", 3, 3, "time b is defined twice, first on line 2"),
    ("dtype=!float32", "!float32", 0, 0, ""),
    ("dtype=!float32", "dtype=!", 4, 30, "a name of torch's"),
    ("[B, 8], dtype=!float32", "dtype=!float32, [B, 8]", 4, 31, "without a name behind one with a name"),
    ("alpha=1", "alpha=1, alpha=2", 7, 29, "'alpha' is given twice"),
    ("alpha=1", "alpha=(1)", 7, 26, "expected a complex number"),
    ("alpha=1", "alpha=1..2", 7, 27, "expected"),
    ("alpha=1", "alpha=" + "9" * 101, 7, 127, "over 100 digits"),
    ("alpha=1", "alpha=" + "9" * 60 + "*" + "9" * 60, 7, 26, "over 100 digits"),
    ("alpha=1", "alpha=" + "*".join("T" * 70), 7, 155, "over 64 factors"),
    ("alpha=1", "alpha=0." + "1" * 200, 7, 26, "over 100 digits"),
    ("alpha=1", "alpha=" + "[" * 65 + "]" * 65, 7, 90, "nested deeper than 64"),
    ('"closure:c"', '"closure:c', 1, 77, "the string does not end"),
    ('"closure:c"', '"clos\\qre"', 1, 82, "no such escape: \\q"),
    ('"closure:c"', '"\\u{110000}"', 1, 78, "no such escape"),
    ("%h[-1]", "%h[1.5]", 6, 17, "expected a delay"),
    ("%h[-1]", "%h[+1]", 6, 3, "in the future"),
    ("%h[-1]", "%h[-2]", 7, 3, "no value before the first step"),
    ("%h[-1]", "%h", 7, 3, "cycle without delay"),
    ("%h[-1]", "%q", 6, 3, "%p reads %q, which nothing defines"),
    ("%h = add", "%u = add", 7, 3, "%u is defined twice, first on line 5"),
    ("@t init", "@q init", 6, 3, "%p reads %h of another time domain"),
    ("B, 1] @t", "B, 1] @q", 5, 3, "no time domain 'q'"),
    ("init(%h0)", "init(%h0", 8, 3, "expected ',' or ')'"),
    ("init(%h0)", "init(%h0) init(%h0)", 7, 54, "expected the end of the line"),
    ('kind="lti"', 'kind="LTI"', 10, 65, '"LTI" is no kind of recurrence'),
    ('kind="lti"', 'kin="lti"', 10, 60, "'kin' is no field of a recurrence"),
    ("members(%p, %h)", "", 10, 32, "expected 'members'"),
    ("return %y", "retur %y", 11, 3, "expected a statement or '}'"),
    ("return %y", "return %h", 11, 3, "return reads the signal %h"),
    ("return %y, [%h0, none]", "", 13, 1, "no return"),
    ('effect "h" %h0', "return %h0", 12, 3, "a second return"),
    ('effect "h" %h0', 'effect "h" 1', 12, 14, "expected a value"),
    ("\n}\n", "\n", 13, 1, "found the end of the text"),
    ("\n}\n", "\n}\ngraph", 14, 1, "a text holds one graph"),
]


@pytest.mark.parametrize(("old", "new", "line", "column", "words"), BROKEN)
def test_errors_have_a_place_a_fact_and_a_way_out(old: str, new: str, line: int, column: int, words: str) -> None:
    assert old in NET
    text = NET.replace(old, new)
    if not words:
        assert parse(text) is not None
        return
    with pytest.raises(IRSyntaxError) as caught:
        parse(text, "net.lir")
    error = caught.value
    assert words in str(error)
    assert (error.file, error.line, error.column) == ("net.lir", line, column)
    assert f"net.lir:{line}:{column}: " in str(error)
    shown, caret = str(error).splitlines()[1:3]
    assert shown == f"{line:>4} | {text.split(chr(10))[line - 1]}"
    assert caret.index("^") == 7 + column - 1
    assert error.code.startswith("LR6") and error.help and f"help: {error.help}" in str(error)


def test_laws_keep_their_codes() -> None:
    with pytest.raises(IRSyntaxError) as caught:
        parse(NET.replace("%h[-1]", "%h"))
    assert caught.value.code == "LR6101"
    assert caught.value.help == "write %h[-1] to read the previous step"


@pytest.mark.parametrize(
    "arg", [10**100, size("T") * 10**100, size("none"), size("2x"), size(""), object()], ids=lambda a: type(a).__name__
)
def test_what_has_no_text_is_not_written(arg: object) -> None:
    with pytest.raises(VerifyError) as caught:
        show(Graph("g", (), (), (), (arg,)))  # type: ignore[arg-type]
    assert caught.value.code == "LR6110"
    deep: tuple[object, ...] = ()
    for _ in range(64):
        deep = (deep,)
    with pytest.raises(VerifyError):
        show(Graph("g", (), (), (), (deep,)))  # type: ignore[arg-type]
    assert parse(show(Graph("g", (), (), (), deep))).outputs == deep  # type: ignore[arg-type]


PIECES = [
    *'%@!"[](){},:=+-*/\\.\n 0T',
    "//",
    "\\u{",
    "none",
    "inf",
    "[-1]",
    "2*",
    "(1.0+2.0j)",
    "init(",
    "backward",
    "é",
    "\x00",
]


@st.composite
def edited(draw: st.DrawFn) -> str:
    """The text of a graph after a few random edits."""
    text = draw(st.just(NET) | graphs().map(show))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(text)))
        end = min(len(text), start + draw(st.sampled_from([0, 0, 1, 1, 2, 5, 40])))
        piece = draw(st.sampled_from(PIECES) | st.text(max_size=3) | st.just(text[start:end] * 2))
        other = draw(st.integers(0, len(text)))
        text = text[:start] + draw(st.sampled_from([piece, text[other : other + 12]])) + text[end:]
    return text


@settings(max_examples=300, deadline=1000, suppress_health_check=SLOW)
@given(edited())
def test_edited_text_is_a_graph_or_an_error_at_a_place(text: str) -> None:
    try:
        graph = parse(text)
    except IRSyntaxError as error:
        assert error.help and error.line is not None
        assert 1 <= error.line <= text.count("\n") + 1
        assert 1 <= error.column <= len(text.split("\n")[error.line - 1]) + 1
        return
    assert show(parse(show(graph))) == show(graph)


def mutated(random: Random, texts: list[str]) -> str:
    """A text after one to five edits: characters dropped, doubled, swapped, cut, moved, or put in from another text."""
    text = random.choice(texts)
    for _ in range(random.randint(1, 5)):
        start = random.randrange(len(text) + 1)
        end = min(len(text), start + random.choice([0, 1, 1, 2, 5, 20, 200]))
        other = random.choice(texts)
        place = random.randrange(len(other) + 1)
        piece = random.choice(
            [
                "", text[start:end] * 2, text[start:end][::-1], random.choice(PIECES), chr(random.randrange(1, 0x3000)),
                other[place : place + random.choice([1, 3, 30])], random.choice(["9", "[", "(", '"', "-"]) * 70,
            ]
        )  # fmt: skip
        text = text[:start] + piece + text[end:]
    return text


@pytest.mark.parametrize("count", [500, pytest.param(10_000, marks=pytest.mark.slow)])
def test_mutated_texts_give_located_errors_only(count: int) -> None:
    texts = [NET, *PROGRAMS.values(), *(p.read_text() for p in (Path(__file__).parent / "filecheck").glob("*.lir"))]
    random = Random(2)
    refused = 0
    for _ in range(count):
        text = mutated(random, texts)
        start = time.perf_counter()
        try:
            assert show(parse(show(parse(text)))) == show(parse(text))
        except IRSyntaxError as error:
            refused += 1
            assert error.line is not None and 1 <= error.line <= text.count("\n") + 1
            assert 1 <= error.column <= len(text.split("\n")[error.line - 1]) + 1
            assert error.help and error.code.startswith("LR6")
        assert time.perf_counter() - start < 1.0
    assert refused > 0.7 * count


def test_a_text_may_be_so_long_and_no_longer() -> None:
    with pytest.raises(IRSyntaxError) as caught:
        parse("graph g() {" + " " * LENGTH)
    assert caught.value.code == "LR6003"


HOSTILE = {
    "brackets": "graph g() {\n return " + "[" * 100_000,
    "parentheses": "graph g() {\n return " + "(" * 100_000,
    "quotes": 'graph g() {\n return "' + "\\\\" * 100_000,
    "digits": "graph g() {\n return " + "9" * 100_000,
    "exponent": "graph g() {\n return 1e" + "9" * 100_000,
    "long sum": "graph g() {\n return " + " + ".join(f"a{i}" for i in range(20_000)) + " +",
    "product": "graph g() {\n return " + "*".join(["9" * 99] * 1000),
    "blanks": "graph g() {" + " " * 100_000 + "\x00",
    "comments": "graph g() {" + "// x\n" * 50_000 + "//",
    "sources": "graph g() {\n %a = f() //" + ":1" * 50_000 + "-" + "\n x",
    "name": "graph " + "x" * 100_000,
    "inputs": "graph g(" + "%x: f32[], " * 20_000,
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_text_is_refused_within_a_second(text: str) -> None:
    start = time.perf_counter()
    with pytest.raises(IRSyntaxError):
        parse(text)
    assert time.perf_counter() - start < 1.0


def test_long_graphs_take_linear_time() -> None:
    ops = [
        Op(f"v{i}", "add", (Use(f"v{i - 1}") if i else 1, 1.5), type=Type("f32", (size("B"), 8))) for i in range(3000)
    ]
    graph = Graph("g", (), (), tuple(ops), (Use("v2999"),))
    start = time.process_time()
    assert parse(show(graph)) == graph
    assert time.process_time() - start < 2.0
