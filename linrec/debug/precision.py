"""Element types: a pass never computes in a coarser type than the program it was given.

Values are compared in double precision, where a number rounded to single looks the same; so this is read off the graph.
"""

from __future__ import annotations

from collections.abc import Iterator

from linrec.dtypes import LONG
from linrec.errors import VerificationError
from linrec.ir import Arg, Atom, Graph, Type, uses_in

# bits of a number after its leading one
_BITS = {"bfloat16": 7, "float16": 10, "float32": 23, "complex64": 23, "float64": 52, "complex128": 52}


def check_precision(old: Graph, new: Graph) -> None:
    """Raises VerificationError (LR5001) where `new` rounds to a coarser type, or returns another type, than `old`."""
    declared = [i.type for i in old.inputs] + [op.type for op in old.ops if isinstance(op.type, Type)]
    had = ({LONG.get(t.dtype, t.dtype) for t in declared} | _casts(old)) & _BITS.keys()
    coarsest = min((_BITS[t] for t in had), default=0)
    # what is declared may be coarser: where(c, 0.0, 1.0), a table of numbers, is of the default type
    coarser = sorted(t for t in _casts(new) & _BITS.keys() if _BITS[t] < coarsest)
    if coarser:
        raise VerificationError(
            "LR5001", f"casts to {', '.join(coarser)}, and nothing before is coarser than {min(had, key=_BITS.__getitem__)}",
            help="results would be rounded to that type",
        )  # fmt: skip
    for number, (before, after) in enumerate(zip(_returned(old), _returned(new), strict=False)):
        if before and after and before != after:
            raise VerificationError(
                "LR5001", f"output {number} is {after}, and was {before} before", help="a pass changed its type"
            )


def _casts(graph: Graph) -> set[str]:
    """What is named in arguments: to(%x, !float32)."""
    return {a for op in graph.ops for arg in (*op.args, *(v for _, v in op.attrs)) for a in _atoms(arg)}


def _atoms(arg: Arg) -> Iterator[str]:
    if isinstance(arg, Atom):
        yield str(arg)
    elif isinstance(arg, tuple):
        for item in arg:
            yield from _atoms(item)


def _returned(graph: Graph) -> list[str]:
    """The element type of each output, "" where the text does not say."""
    types = {i.name: i.type for i in graph.inputs} | {op.result: op.type for op in graph.ops}
    found = [types.get(use.name) for use in uses_in(graph.outputs)]
    return [LONG.get(t.dtype, t.dtype) if isinstance(t, Type) else "" for t in found]
