"""The compiled kernels, loaded with ctypes: present where the package was built with a C compiler.

Nothing here knows of torch: functions take addresses, strides in elements, and a thread count. Without the library
`library()` is None, every kernel runs in plain operators, and `status()` says so.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.machinery
from pathlib import Path

_POINTER, _LONG, _INT = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int
_TYPES = ("f32", "f64", "c64", "c128")
_TAIL = (_POINTER, _LONG, _POINTER, _INT, _INT)  # strides, steps, sizes, outer axes, threads
_ARGUMENTS = {"scan_forward": (_POINTER,) * 4 + _TAIL, "scan_ends": (_POINTER,) * 4 + _TAIL, "scan_backward": (_POINTER,) * 7 + _TAIL}


@functools.cache
def library() -> ctypes.CDLL | None:
    """The loaded library, None if it was not built or cannot be loaded on this machine."""
    for suffix in importlib.machinery.EXTENSION_SUFFIXES:
        path = Path(__file__).with_name(f"_kernels{suffix}")
        if path.exists():
            try:
                found = ctypes.CDLL(str(path))
            except OSError:
                return None
            for name, arguments in _ARGUMENTS.items():
                for kind in _TYPES:
                    function = getattr(found, f"{name}_{kind}")
                    function.argtypes, function.restype = arguments, None
            return found
    return None


def status() -> str:
    """One line for reports."""
    return "compiled kernels loaded" if library() is not None else "no compiled kernels: plain operators everywhere"
