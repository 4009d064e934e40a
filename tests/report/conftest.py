"""A small finished run with every verdict in it, and hostile text wherever text goes."""

import json

import numpy as np
import pytest

from ico import report
from ico.report import Claim, Measurement, Records, StudyResult, record

HOSTILE = """<script>alert(1)</script>"'><img src=http://evil.example/x>|`*"""

CLAIMS = (
    Claim(
        "one_layer.loss",
        "One layer does one step.",
        "Fig. 2",
        "half squared error",
        (0.2, 0.21),
        "core",
        0.2062,
    ),
    Claim("one_layer.identity", "The construction is exact.", "Prop. 1", "", (None, 1e-4), "ours"),
    Claim("deep.gain", f"Depth helps {HOSTILE}", HOSTILE, HOSTILE, (0.9, 1.1)),
    Claim("deep.late", "Depth helps late.", "Fig. 3", "ratio", (1.0, None)),
    Claim("sine.loss", "Sines are learnt.", "Fig. 4", "nats", (0.0, 1.0)),
    Claim("real.loss", "It transfers.", "Fig. 5", "nats", (None, 1.0)),
)


@pytest.fixture
def studies():
    rows = [{"learner": HOSTILE, HOSTILE: 1.5}, {"learner": "plain", "steps": 3, "nan": np.nan}]
    return {
        "one_layer": StudyResult(
            claims=[
                Measurement(0.2063, (0.2051, 0.2074), 5, 10_000, claim="one_layer.loss"),
                Measurement(3e-6, None, 0, 100, note=HOSTILE, claim="one_layer.identity"),
            ],
            tables={"losses": rows, HOSTILE: [{"k": k} for k in range(30)]},
            records=Records(
                [
                    record(learner=HOSTILE, depth=2, loss=np.arange(6.0).reshape(2, 3)),
                    record("names", tied=True, rate=None, names=np.array(["a", "b"])),
                ],
                [HOSTILE],
            ),
            notes=[HOSTILE],
            seconds=12.5,
        ),
        "deep": StudyResult(
            claims=[
                Measurement(1.05, (0.99, 1.12), 5, 100, claim="deep.gain"),
                Measurement(0.5, (0.4, 0.6), 5, 100, claim="deep.late"),
            ],
            seconds=100.0,
        ),
        "sine": StudyResult(
            claims=[Measurement(np.nan, (np.nan, np.inf), 1, 7, claim="sine.loss")]
        ),
    }


@pytest.fixture
def write(studies):
    def write(directory, **changes):
        arguments = dict(
            experiment="gd_in_context",
            preset="cpu",
            seed=0,
            claims=CLAIMS,
            studies=studies,
            config={"steps": 5000, "model": {"layers": (1, 2), "name": HOSTILE}},
        )
        return report.write_results(directory, **(arguments | changes))

    return write


@pytest.fixture
def run(tmp_path, write):
    """A run folder with results.json and config.json."""
    write(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"config": {"hostile": HOSTILE}}))
    return tmp_path
