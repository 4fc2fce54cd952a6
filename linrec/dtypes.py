"""Element types: the short names of the text form and torch's."""

from __future__ import annotations

LONG = {
    "f32": "float32", "f64": "float64", "f16": "float16", "bf16": "bfloat16",
    "c64": "complex64", "c128": "complex128", "i64": "int64", "i32": "int32",
    "i16": "int16", "i8": "int8", "u8": "uint8", "bool": "bool",
}  # fmt: skip
SHORT = {long: short for short, long in LONG.items()}
INEXACT = frozenset({"f32", "f64", "f16", "bf16", "c64", "c128"})  # floating point, real and complex
