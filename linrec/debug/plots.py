"""Plots: poles, impulse responses, errors and costs as small SVG pictures, drawn without any library."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

_SIDE, _PAD = 260, 34
_LINES = ("#00798c", "#d1495b", "#edae49", "#5b8e7d", "#8d6a9f", "#bc6c25")


def poles(values: Sequence[complex]) -> str:
    """Poles in the complex plane with the unit circle: inside is stable."""
    reach = max([1.1, *(1.1 * abs(v) for v in values if math.isfinite(abs(v)))])
    scale = (_SIDE / 2 - 12) / reach
    middle = _SIDE / 2
    marks = "".join(
        f'<circle class="pole{" outside" * (abs(v) > 1)}" r="4" cx="{middle + v.real * scale:.1f}" '
        f'cy="{middle - v.imag * scale:.1f}"><title>{v.real:.4g}{v.imag:+.4g}j, |z| = {abs(v):.6g}</title></circle>'
        for v in values
        if math.isfinite(abs(v))
    )
    return (
        f'<svg class="plot poles" viewBox="0 0 {_SIDE} {_SIDE}" role="img" aria-label="poles">'
        f'<line x1="0" x2="{_SIDE}" y1="{middle}" y2="{middle}" class="axis"/>'
        f'<line y1="0" y2="{_SIDE}" x1="{middle}" x2="{middle}" class="axis"/>'
        f'<circle class="unit" cx="{middle}" cy="{middle}" r="{scale:.1f}"/>{marks}</svg>'
    )


def lines(series: Sequence[Sequence[float]], across: str, up: str) -> str:
    """One line a series over 0, 1, 2, ...; the range is that of all finite values."""
    width, height = 2 * _SIDE, _SIDE
    values = [v for row in series for v in row if math.isfinite(v)]
    count = max((len(row) for row in series), default=0)
    low, high = min([0.0, *values]), max([0.0, *values])
    span = (high - low) or 1.0

    def at(k: int, v: float) -> str:
        x = _PAD + (width - 2 * _PAD) * k / max(count - 1, 1)
        return f"{x:.1f},{height - _PAD - (height - 2 * _PAD) * (v - low) / span:.1f}"

    drawn = "".join(
        f'<polyline points="{" ".join(at(k, v) for k, v in enumerate(row) if math.isfinite(v))}" '
        f'style="stroke:{_LINES[i % len(_LINES)]}"/>'
        for i, row in enumerate(series)
    )
    zero = at(0, 0.0).partition(",")[2]
    return (
        f'<svg class="plot lines" viewBox="0 0 {width} {height}" role="img" aria-label="{escape(up)}">'
        f'<line x1="{_PAD}" x2="{width - _PAD}" y1="{zero}" y2="{zero}" class="axis"/>{drawn}'
        f'<text x="{_PAD}" y="{_PAD - 12}">{escape(up)}, {low:.3g} .. {high:.3g}</text>'
        f'<text x="{width - _PAD}" y="{height - 8}" class="end">{escape(across)} 0 .. {max(count - 1, 0)}</text></svg>'
    )


def bars(values: Sequence[float], labels: Sequence[str], limit: float, up: str) -> str:
    """Logarithmic bars from 1e-3 of the smallest number of interest, with a line at `limit`."""
    width, height = 2 * _SIDE, _SIDE
    floor = math.log10(max(min([v for v in (*values, limit) if v > 0], default=1e-12), 1e-300)) - 1
    top = math.log10(max([v for v in (*values, limit) if v > 0 and math.isfinite(v)], default=1.0)) + 0.5

    def y(v: float) -> float:
        level = floor if v <= 0 else min(math.log10(v), top) if math.isfinite(v) else top
        return height - _PAD - (height - 2 * _PAD) * (level - floor) / ((top - floor) or 1.0)

    step = (width - 2 * _PAD) / max(len(values), 1)
    drawn = "".join(
        f'<rect x="{_PAD + i * step + 1:.1f}" width="{max(step - 2, 1):.1f}" y="{y(v):.1f}" '
        f'height="{height - _PAD - y(v):.1f}" class="bar{" beyond" * (not v <= limit)}">'
        f"<title>{escape(label)}: {v:.2e}</title></rect>"
        for i, (v, label) in enumerate(zip(values, labels, strict=True))
    )
    line = f'<line x1="{_PAD}" x2="{width - _PAD}" y1="{y(limit):.1f}" y2="{y(limit):.1f}" class="limit"/>'
    ends = f"{labels[0]} .. {labels[-1]}" if labels else ""
    return (
        f'<svg class="plot bars" viewBox="0 0 {width} {height}" role="img" aria-label="{escape(up)}">{drawn}{line}'
        f'<text x="{_PAD}" y="{_PAD - 12}">{escape(up)}; allowed {limit:.1e}</text>'
        f'<text x="{width - _PAD}" y="{height - 8}" class="end">{escape(ends)}</text></svg>'
    )
