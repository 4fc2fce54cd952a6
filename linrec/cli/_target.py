"""FILE.py:Name and --input: a callable and inputs for it, from what stands on the command line.

Executes the user's file, its model's constructor and --make; their errors end the command with exit
code 2 and the user's own frames. Inputs are random with a fixed seed, so two runs see the same.
"""

from __future__ import annotations

import contextlib
import importlib.util
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

from linrec.cli._output import INTERNAL, MISMATCH, SEQUENTIAL, USAGE, Ending, remark
from linrec.errors import InternalError, LinrecError, NotLinearError, VerificationError

if TYPE_CHECKING:
    from torch import Tensor

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
_EXITS = {NotLinearError: SEQUENTIAL, VerificationError: MISMATCH, InternalError: INTERNAL}


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
        code = next((code for kind, code in _EXITS.items() if isinstance(error, kind)), USAGE)
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
