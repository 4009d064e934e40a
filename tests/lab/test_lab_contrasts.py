"""Learners against each other: the sign of a difference says who is better, and what is drawn."""

import numpy as np
import pytest

from ico import lab, report

RNG = np.random.default_rng(0)
MEANS = {("a", 1): 1.0, ("b", 1): 2.0, ("a", 2): 3.0, ("b", 2): 2.0, ("c", 2): 3.0}
TASK = RNG.normal(size=(2, 200))  # shared by all, so that differences are paired


@pytest.fixture
def records():
    return lab.Records(
        lab.record(n=n, learner=name, kind="x" + name, loss=mean + TASK + 0.01 * RNG.normal(size=1))
        for (name, n), mean in MEANS.items()
    )


def test_the_sign_of_a_paired_difference_says_who_is_better(records):
    table = lab.gaps("loss", rows=("n",), axis="learner", first="a")(records)
    assert [(row["n"], row["a minus"], row["better"]) for row in table[:2]] == [
        (1, "b", "a"),
        (2, "b", "b"),
    ]
    np.testing.assert_allclose([row["difference"] for row in table], [-1, 1, 0], atol=0.05)
    for row in table:
        assert row["95% low"] <= row["difference"] <= row["95% high"]
    assert table == lab.gaps("loss", rows=("n",), axis="learner", first=lambda _: "a")(records)


def test_another_interval_may_leave_the_order_open(records):
    draw = lab.gaps(
        "loss", rows=("n",), axis="learner", first="a", of=lambda a, b: (0.0, (-1.0, 1.0)), n=1
    )
    assert [row["better"] for row in draw(records)] == ["undecided"]
    with pytest.raises(lab.Missing):
        lab.gaps("loss", rows=("n",), axis="learner", first="z")(records)


def test_means_beyond_the_edge_are_arrows_on_it(records):
    with report.style():
        fig = lab.dots("loss", y="n", color="learner", most=2.5)(records)
    (ax,) = fig.axes
    drawn = {
        (line.get_marker(), round(float(x), 1)) for line in ax.get_lines() for x in line.get_xdata()
    }
    assert {x for marker, x in drawn if marker == ">"} == {2.5}
    assert {x for marker, x in drawn if marker != ">"} <= {0.9, 1.0, 1.1, 1.9, 2.0, 2.1}
    assert ax.yaxis_inverted()
    assert [label.get_text() for label in ax.get_yticklabels()] == ["1", "2"]


def test_two_learners_and_their_ratio(records):
    with report.style():
        fig = lab.beside("n", "loss", axis="learner", pair=("a", "b"), log=True)(records)
    left, right = fig.axes
    assert left.get_yscale() == "log"
    means = [
        np.mean([r["loss"].mean(-1) for r in records.where(learner=name, n=1)]) for name in "ab"
    ]
    (line,) = (line for line in right.get_lines() if line.get_label() == "a")
    seeds = [records.one(learner=name, n=1)["loss"].mean(-1) for name in "ab"]
    assert line.get_ydata()[0] == pytest.approx((seeds[0] / seeds[1]).mean())
    assert left.get_lines()[-1].get_ydata()[0] == pytest.approx(means[1])
