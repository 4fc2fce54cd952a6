"""FILE.py:Name and --input: a callable and inputs for it, from what stands on the command line.

Executes the user's file, its model's constructor and --make; their errors end the command with exit
code 2 and the user's own frames. Inputs are random with a fixed seed, so two runs see the same.
"""

from __future__ import annotations

import contextlib
import importlib.util
import inspect
import math
import os
import re
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import click

from linrec.cli._output import INTERNAL, MISMATCH, SEQUENTIAL, USAGE, Ending, remark
from linrec.errors import InternalError, LinrecError, NotLinearError, VerificationError

if TYPE_CHECKING:
    from torch import Tensor

    from linrec.reproducer import Reproducer

DTYPES = {
    "f16": "float16",
    "bf16": "bfloat16",
    "f32": "float32",
    "f64": "float64",
    "c64": "complex64",
    "c128": "complex128",
    "i8": "int8",
    "i16": "int16",
    "i32": "int32",
    "i64": "int64",
    "u8": "uint8",
    "bool": "bool",
}
_MOST = 2**31  # elements of one input
_INPUT_HELP = 'a tensor is written "f32[8,784,1]", a number 0.5 or 3, and true, false, none'
EXITS = {NotLinearError: SEQUENTIAL, VerificationError: MISMATCH, InternalError: INTERNAL}


def model_options(function: Callable[..., None]) -> Callable[..., None]:
    """--input and --make, for every command that takes FILE.py:Name."""
    function = click.option("--make", metavar='"Net(d=64)"', help="How to make the model; evaluated in FILE.py.")(
        function
    )
    kind = '"f32[8,784,1]"'
    return click.option("--input", "specs", multiple=True, metavar=kind, help="One argument of the call; repeatable.")(
        function
    )


def prepared(target: str, specs: tuple[str, ...], make: str | None) -> tuple[Callable[..., Any], list[Any]]:
    """The model and its inputs, after a look at what can be wrong with the command line."""
    for spec in specs:
        if "[" in spec:
            read_type(spec)  # before the user's file takes its time
    import torch

    torch.manual_seed(0)
    model = load(target, make)
    if not specs and (missing := _needed(model)):
        example = " ".join('--input "f32[8,100,1]"' for _ in missing)
        raise Ending(
            f"{target} takes {', '.join(missing)}: no --input given", f"say their types, for example {example}"
        )
    return model, inputs(specs)


def is_text(target: str) -> bool:
    """Is the target the text of a graph rather than a Python file?"""
    return target == "-" or Path(target).suffix == ".lir"


def read_text(target: str) -> str:
    """The text of a .lir file, or of stdin for "-"."""
    if target == "-":
        return sys.stdin.read()
    try:
        return Path(target).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise Ending(f"{target}: {error}", "give a file that `linrec trace` wrote, or - for stdin") from error


def reproducer(target: str, specs: tuple[str, ...], make: str | None) -> Reproducer:
    """The graph of a .lir file, with what stands above it, or of a traced call of FILE.py:Name."""
    from linrec import reproducer as files

    if is_text(target):
        with user_code(target, "is it the text of a graph?"):
            return files.read(read_text(target), target)
    from linrec.debug import trace

    model, given = prepared(target, specs, make)
    with user_code(target, "do the types given by --input fit its arguments?"):
        return files.Reproducer(trace(model, *given))


def numbers(text: str, option: str) -> tuple[int, ...]:
    """Lengths from "1,2,3"."""
    parts = [p.strip() for p in text.split(",")]
    if not all(re.fullmatch(r"[0-9]{1,9}", p) for p in parts):
        raise Ending(f'{option} "{text}": expected lengths with commas between them', f"for example {option} 1,2,16")
    return tuple(map(int, parts))


def _needed(model: Callable[..., Any]) -> list[str]:
    """The arguments that a call cannot do without."""
    called = getattr(model, "forward", model)
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    try:
        parameters = inspect.signature(called).parameters.values()
    except (TypeError, ValueError):  # a builtin without a signature
        return []
    return [p.name for p in parameters if p.kind in kinds and p.default is inspect.Parameter.empty]


def load(target: str, make: str | None) -> Callable[..., Any]:
    """The function, the module, or the instance of the module class that `target` names."""
    file, _, name = (target, "", "") if Path(target).is_file() else target.rpartition(":")
    if not Path(file).is_file():
        raise Ending(f"{file or target}: no such file", "write FILE.py:Name, for example net.py:Net")
    if not name and make is None:
        raise Ending(f"{file}: which function or class?", f"write {file}:Name")
    module = _module(Path(file))
    found: Callable[..., Any] | object = _named(module, file, name) if name else None
    if make is not None:
        with user_code(f'--make "{make}"', f"--make is an expression, evaluated in {file}"):
            found = eval(compile(make, "--make", "eval"), vars(module))
    if isinstance(found, type):
        with user_code(f"{found.__name__}()", f'give its arguments: --make "{found.__name__}(...)"'):
            found = found()
    if not callable(found):
        kind = type(found).__name__
        raise Ending(
            f"{target}: a {kind} cannot be called", "name a function, an nn.Module class or an instance of one"
        )
    return found


def inputs(specs: tuple[str, ...]) -> list[Tensor | float | int | bool | None]:
    """A value for each --input, in order."""
    import torch

    words: dict[str, bool | None] = {"true": True, "false": False, "none": None}
    random = torch.Generator().manual_seed(0)
    made: list[Tensor | float | int | bool | None] = []
    for spec in specs:
        text = spec.strip()
        if text in words:
            made.append(words[text])
        elif re.fullmatch(r"[+-]?[0-9]{1,18}", text):
            made.append(int(text))
        elif re.fullmatch(r"[+-]?([0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))([eE][+-]?[0-9]+)?", text):
            made.append(float(text))
        else:
            dtype, shape = read_type(spec)
            made.append(_random(getattr(torch, dtype), shape, random))
    return made


def read_type(spec: str) -> tuple[str, tuple[int, ...]]:
    """The dtype and the shape that "f32[8, 784]" stands for."""

    def expected(what: str, at: int) -> Ending:
        seen = f'"{spec[at]}"' if at < len(spec) else "the end"
        return Ending(f'--input "{spec}", column {at + 1}: expected {what}, found {seen}', _INPUT_HELP)

    head = re.match(r"\s*(\w*)\s*", spec)
    assert head is not None
    if head[1] not in DTYPES:
        raise expected(f"an element type ({', '.join(DTYPES)})", head.start(1))
    start, end = head.end(), spec.find("]")
    if spec[start : start + 1] != "[":
        raise expected("'['", start)
    if end < 0:
        raise expected("']'", len(spec))
    if rest := spec[end + 1 :].lstrip():
        raise expected("the end", len(spec) - len(rest))
    shape: list[int] = []
    at, inside = start + 1, spec[start + 1 : end]
    for part in inside.split(",") if inside.strip() else ():
        if not re.fullmatch(r"\s*[0-9]{1,12}\s*", part):
            raise expected("a length", at + len(part) - len(part.lstrip()))
        shape.append(int(part))
        at += len(part) + 1
    if math.prod(shape) > _MOST:
        fact = f"{math.prod(shape):,} elements, at most {_MOST:,} are made"
        raise Ending(f'--input "{spec}": {fact}', "give a shorter length")
    return DTYPES[head[1]], tuple(shape)


@contextlib.contextmanager
def user_code(what: str, help: str) -> Iterator[None]:
    """Whatever the user's code raises ends the command, with the frames that are the user's."""
    try:
        yield
    except LinrecError as error:
        code = next((code for kind, code in EXITS.items() if isinstance(error, kind)), USAGE)
        remark(str(error))
        raise SystemExit(code) from error
    # The user's code may raise anything, and none of it may look like an exit code of ours.
    except (Exception, SystemExit) as error:
        raise Ending(f"{what}: {_told(error)}", help) from error


def _told(error: BaseException) -> str:
    lines = traceback.format_exception_only(error)
    frames = traceback.extract_tb(error.__traceback__)
    if "LINREC_FULL_TRACE" not in os.environ:
        paths = sysconfig.get_paths()
        own = (str(Path(__file__).parent.parent), paths["stdlib"], paths["purelib"], paths["platlib"], "<frozen")
        frames = traceback.StackSummary.from_list([f for f in frames if not f.filename.startswith(own)])
    return "".join(lines).strip() + ("\n" + "".join(frames.format()).rstrip() if frames else "")


def _module(file: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"__linrec_{file.stem}__", file)
    if spec is None or spec.loader is None:
        raise Ending(f"{file}: not a Python file", "its name ends in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # as an import does; dataclasses look there
    sys.path.insert(0, str(file.parent.resolve()))  # as `python FILE.py` does
    with user_code(f"{file}", "the file must run when it is imported"):
        spec.loader.exec_module(module)
    return module


def _named(module: ModuleType, file: str, name: str) -> Any:
    found: Any = module
    for part in name.split("."):
        if not hasattr(found, part):
            own = [
                key
                for key, value in vars(module).items()
                if callable(value) and getattr(value, "__module__", "") == module.__name__
            ]
            raise Ending(f"{file} has no {name}", f"it has {', '.join(own)}" if own else "define a function or class")
        found = getattr(found, part)
    return found


def _random(dtype: Any, shape: tuple[int, ...], random: Any) -> Tensor:
    import torch

    if dtype.is_floating_point or dtype.is_complex:
        return torch.randn(shape, dtype=dtype, generator=random)
    # 0 and 1 are indices that every table has
    return torch.randint(0, 2, shape, dtype=dtype, generator=random)
