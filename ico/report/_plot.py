"""The small picture of a claim: its band, and the measurement against it, as inline SVG."""

from __future__ import annotations

import math
from html import escape

from ico.report import _format

_WIDTH, _HEIGHT = 300, 54
_MARGIN = 46  # room beside the outermost point, for half a label
_MIDDLE, _BAND_HEIGHT = 19, 26


def interval_svg(claim: dict) -> str:
    """Band shaded (to the edge where it is open), interval as a bar, value as a dot.

    Args:
      claim: an entry of results.json.

    Returns:
      Markup; "" if the value is not finite, for then there is nothing to place.
    """
    value, (low, high) = claim["measured"], claim["band"]
    if value is None:
        return ""
    ends = [end for end in claim["ci95"] or () if end is not None]
    place = _scale([value, *ends, *(end for end in (low, high) if end is not None)])
    left = 0 if low is None else place(low)
    right = _WIDTH if high is None else place(high)
    width = max(right - left, 2.0)
    top = _MIDDLE - _BAND_HEIGHT / 2
    parts = [
        f'<rect class="plot-band" x="{left:.1f}" y="{top}" width="{width:.1f}"'
        f' height="{_BAND_HEIGHT}"/>',
        _line("plot-axis", 0, _WIDTH, _MIDDLE, _MIDDLE),
    ]
    for end in (low, high):
        if end is not None:
            parts.append(_line("plot-edge", place(end), place(end), top, top + _BAND_HEIGHT))
    if len(ends) == 2:
        parts.append(_line("plot-bar", place(ends[0]), place(ends[1]), _MIDDLE, _MIDDLE))
        parts += [_line("plot-bar", place(e), place(e), _MIDDLE - 5, _MIDDLE + 5) for e in ends]
    parts.append(f'<circle class="plot-dot" cx="{place(value):.1f}" cy="{_MIDDLE}" r="5"/>')
    parts += _labels(low, high, place)
    number, interval = _format.measured(claim)
    spoken = f"measured {number}{f', 95% {interval}' if interval else ''}; "
    spoken += f"band {_format.band(claim)}: {claim['verdict']}"
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(spoken)}">'
        f"<title>{escape(spoken)}</title>{''.join(parts)}</svg>"
    )


def _scale(points: list[float | int]):
    """Linear map that puts the outermost points a margin from the edges."""
    lowest, highest = min(points), max(points)
    span = highest - lowest
    if not (span > 0 and math.isfinite(span)):
        return lambda x: _WIDTH / 2
    return lambda x: _MARGIN + (x - lowest) / span * (_WIDTH - 2 * _MARGIN)


def _labels(low: float | int | None, high: float | int | None, place) -> list[str]:
    """The ends of the band in figures below it, pushed apart where they would touch."""
    near = low is not None and high is not None and place(high) - place(low) < 60
    labels = []
    for end, side in ((low, "end"), (high, "start")):
        if end is None:
            continue
        anchor, shift = (side, -2 if side == "end" else 2) if near else ("middle", 0)
        if near and low == high:
            anchor, shift = "middle", 0
        labels.append(
            f'<text class="plot-label" x="{place(end) + shift:.1f}" y="{_HEIGHT - 7}"'
            f' text-anchor="{anchor}">{escape(_format.exact(end))}</text>'
        )
    return labels[:1] if low == high else labels


def _line(kind: str, x1: float | int, x2: float | int, y1: float | int, y2: float | int) -> str:
    return f'<line class="{kind}" x1="{x1:.1f}" x2="{x2:.1f}" y1="{y1}" y2="{y2}"/>'
