"""Numbers, intervals and bands as people write them. Plain text, no markup."""

from __future__ import annotations

import math
from typing import Any

SYMBOLS = {"reproduced": "✓", "not reproduced": "✗", "inconclusive": "?", "not run": "–"}


def number(value: float | int | None, digits: int = 4) -> str:
    """`value` with `digits` significant digits; "n/a" for what is missing or not finite."""
    if value is None or not math.isfinite(value):
        return "n/a"
    if value == 0:
        return "0"
    exponent = math.floor(math.log10(abs(value)))
    if -4 <= exponent < 7:
        return _fixed(value, max(0, digits - 1 - exponent))
    mantissa, power = f"{value:.{min(digits, 3) - 1}e}".split("e")
    return _sign(f"{mantissa}e{int(power)}")


def exact(value: float | int) -> str:
    """A number someone typed, such as the end of a band: as short as it reads back."""
    text = f"{value:.9e}" if 0 < abs(value) < 1e-3 else f"{value:.10g}"
    mantissa, e, power = text.partition("e")
    if not e:
        return _sign(text)
    mantissa = mantissa.rstrip("0").rstrip(".") if "." in mantissa else mantissa
    return _sign(f"{mantissa}e{int(power)}")


def measured(claim: dict) -> tuple[str, str]:
    """(value, interval) of an entry of results.json: ("0.2062", "0.2051 to 0.2074").

    The width of the interval decides how many decimals both show: two digits of its half. The
    interval of a deterministic identity is "".
    """
    value, ends = claim["measured"], claim["ci95"]
    if ends is None:
        return _number_or_words(value), ""
    low, high = ends
    if low is None and high is None:
        return _number_or_words(value), "not finite"
    half = 0.0 if None in (value, low, high) else high / 2 - low / 2  # of the interval's width
    if not (half > 0 and math.isfinite(half)):
        return _number_or_words(value), f"{_number_or_words(low)} to {_number_or_words(high)}"
    decimals = 1 - math.floor(math.log10(half))
    largest = max(abs(value), abs(low), abs(high))
    if decimals > 9 or largest >= 1e7:
        return number(value), f"{number(low)} to {number(high)}"
    decimals = max(0, decimals)
    return _fixed(value, decimals), f"{_fixed(low, decimals)} to {_fixed(high, decimals)}"


def band(claim: dict) -> str:
    """Such as "0.2042 to 0.2083", "at least 0.99" or "at most 1e-4"."""
    low, high = claim["band"]
    if low is None:
        return f"at most {exact(high)}"
    if high is None:
        return f"at least {exact(low)}"
    return f"{exact(low)} to {exact(high)}"


def paper_value(claim: dict) -> str:
    """The paper's own number, "" where it prints none."""
    value = claim.get("paper_value")
    return "" if value is None else exact(value)


def duration(seconds: float | int) -> str:
    """Such as "42 seconds", "12 minutes", "3.5 hours"."""
    if seconds < 90:
        return _count(round(seconds), "second")
    if seconds < 90 * 60:
        return _count(round(seconds / 60), "minute")
    return f"{seconds / 3600:.1f} hours"


def cost(results: dict) -> str:
    """Such as "cpu preset, 5 seeds, 42 minutes on 2 cores"."""
    machine = results.get("machine") or {}
    seeds = [claim.get("n_seeds") or 0 for claim in results["claims"]]
    parts = [f"{results['preset']} preset"]
    if max(seeds, default=0):
        parts.append(_count(max(seeds), "seed"))
    seconds, training = results["seconds"], results.get("training_seconds") or 0
    time = duration(seconds)
    if seconds < training:  # some studies found their models trained, by an earlier run of them
        time = f"{duration(training)} of cached training, {duration(seconds)} in the last run"
    device = machine.get("device", "cpu")
    if device != "cpu":
        time += f" on {device}"
    elif machine.get("cores"):
        time += f" on {_count(machine['cores'], 'core')}"
    return ", ".join([*parts, time])


def counts(results: dict, kind: str | None = None) -> dict[str, int]:
    """How many claims (of a kind) have each verdict, in the order of SYMBOLS, zeros included."""
    verdicts = [c["verdict"] for c in results["claims"] if kind in (None, c.get("kind", "paper"))]
    return {name: verdicts.count(name) for name in SYMBOLS}


def cell(value: Any) -> str:
    """A cell of a table: numbers shortened, everything else as it is."""
    if value is None:
        return "n/a"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return _sign(str(value))
    if isinstance(value, float):
        return number(value)
    if isinstance(value, list):
        return ", ".join(cell(item) for item in value)
    return str(value)


def _number_or_words(value: float | int | None) -> str:
    return "not finite" if value is None else number(value)


def _fixed(value: float | int, decimals: int) -> str:
    text = f"{value:.{decimals}f}"
    return _sign(text.lstrip("-") if float(text) == 0 else text)


def _sign(text: str) -> str:
    return text.replace("-", "−", 1) if text.startswith("-") else text


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}{'' if n == 1 else 's'}"


def commit(run: dict) -> str:
    """The commits of the code that the studies of a run ran with."""
    of_studies = {study.get("git") for study in run.get("studies", {}).values()} - {None, ""}
    return ", ".join(sorted(of_studies)) or run.get("git", "unknown")
