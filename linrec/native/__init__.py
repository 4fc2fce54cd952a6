"""The compiled kernels, loaded with ctypes: present where the package was built with a C compiler.

Nothing here knows of torch: functions take addresses, strides in elements, and a thread count. Without the library
`kernels()` is None, every kernel runs in plain operators, and `status()` says so.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.machinery
from pathlib import Path

_POINTER, _LONG, _INT = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int
_TAIL = (_POINTER, _LONG, _POINTER, _INT, _INT)  # strides, steps, sizes, outer axes, threads
MOST_UPDATES = 8  # rank-one updates, and reads, of a matrix state in one step


class Walk(ctypes.Structure):
    """Sizes of a walk over matrix states, and what is kept for the way back (linrec.c)."""

    _fields_ = (
        *((name, _LONG) for name in ("steps", "K", "V", "outer", "chunk")),
        *((name, _POINTER) for name in ("size", "delay", "saved", "d_final")),
        *((name, _INT) for name in ("rank", "R", "M", "threads")),
    )


_MATRIX = (ctypes.POINTER(Walk), _POINTER, _POINTER, _INT)
_ARGUMENTS = {
    **{
        f"{name}_{kind}": (*(_POINTER,) * count, *_TAIL)
        for name, count in (("scan_forward", 4), ("scan_ends", 4), ("scan_backward", 7))
        for kind in ("f32", "f64", "c64", "c128")
    },
    **{f"matrix_{way}_{kind}": _MATRIX for way in ("forward", "backward") for kind in ("f32", "f64")},
    **{f"dense_scan_{kind}": (*(_POINTER,) * 5, *(_LONG,) * 4, _INT, _INT) for kind in ("f32", "f64", "c64", "c128")},
    "large_pages": (_POINTER, _LONG),
    "same_bytes": (_POINTER, _POINTER, _LONG),
    **{f"transpose_{word}": (_POINTER, _POINTER, *(_LONG,) * 4, _INT) for word in ("w32", "w64")},
    **{f"loudest_{word}": (_POINTER, _POINTER, *(_LONG,) * 5, _INT) for word in ("w32", "w64")},
}
_RESULTS = {"same_bytes": _INT}


@functools.cache
def kernels() -> ctypes.CDLL | None:
    """The loaded library, None if it was not built, or not from these sources, or cannot be loaded here."""
    for suffix in importlib.machinery.EXTENSION_SUFFIXES:
        path = Path(__file__).with_name(f"_kernels{suffix}")
        if path.exists():
            try:
                found = ctypes.CDLL(str(path))
            except OSError:
                return None
            if not all(hasattr(found, name) for name in _ARGUMENTS):
                return None  # built from other sources than these: build again
            for name, arguments in _ARGUMENTS.items():
                function = getattr(found, name)
                function.argtypes, function.restype = arguments, _RESULTS.get(name)
            return found
    return None


def status() -> str:
    """One line for reports."""
    return "compiled kernels loaded" if kernels() is not None else "no compiled kernels: plain operators everywhere"
