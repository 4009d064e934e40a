"""`lab.grid`: every record in its cell, rows and columns in the order of the records."""

import numpy as np
import pytest

from ico import lab


def test_every_record_stands_in_its_cell():
    places = [("a", 0.0), ("a", 1.0), ("b", 0.0)]
    records = lab.Records(
        lab.record(table=table, noise=noise, learner=learner, loss=np.array([k, k, k + 3.0]))
        for k, (table, noise) in enumerate(places)
        for learner in ("y", "x")
        if (learner, k) != ("x", 2)
    )
    shown = lab.grid("loss", rows=("table", "noise"), columns="learner")(records)
    assert shown == [
        {"table": "a", "noise": 0.0, "y": 1.0, "x": 1.0},
        {"table": "a", "noise": 1.0, "y": 2.0, "x": 2.0},
        {"table": "b", "noise": 0.0, "y": 3.0},
    ]
    medians = lab.grid("loss", rows=("table",), columns="learner", of=np.median, noise=0.0)
    assert medians(records) == [{"table": "a", "y": 0.0, "x": 0.0}, {"table": "b", "y": 2.0}]
    with pytest.raises(lab.Missing, match="rate"):
        lab.grid("rate", rows=("table",), columns="learner")(records)
