"""Records are found by their axes, and claims are declared over them."""

import numpy as np
import pytest
from matplotlib import pyplot

from ico import lab, report


def records():
    rng = np.random.default_rng(0)
    base = rng.normal(size=(3, 200)) + 5
    return lab.Records(
        [
            lab.record(learner="gd", depth=1, loss=base[0]),
            lab.record(learner="gd", depth=2, loss=0.8 * base[0]),
            lab.record(learner="layer", depth=1, loss=1.01 * base, failure_rate=np.asarray(0.25)),
            lab.record(learner="layer", depth=2, loss=0.81 * base, late=0.5 * base),
            lab.record("curve", learner="layer", depth=2, step=np.arange(4), loss=np.ones((3, 4))),
            lab.record("exact", error=np.float32(1e-7)),
        ]
    )


def test_scalars_are_axes_and_arrays_are_values():
    one = lab.record("sort", a="x", b=1, c=2.5, d=True, e=None, f=np.float64(3), g=[1, 2])
    assert one.axes == {"a": "x", "b": 1, "c": 2.5, "d": True, "e": None}
    assert set(one.values) == {"f", "g"} and one["g"].shape == (2,) and one["a"] == "x"
    assert "f" in one and "z" not in one and one.get("z", 7) == 7
    with pytest.raises(KeyError, match="z"):
        one["z"]
    with pytest.raises(TypeError, match="'h' is object"):
        lab.record(h=object())


def test_records_hold_what_was_measured_then():
    buffer, found = np.zeros(2), []
    for place in range(3):
        buffer[:] = place
        found.append(lab.record(place=place, x=buffer, failure_rate=None))
    assert [r["x"][0] for r in found] == [0, 1, 2]
    assert "failure_rate" not in found[0]
    assert lab.Records([lab.record(x=[1.0], failure_rate=0.5)]).failure_rate() == 0.5


def test_records_are_found_by_axes():
    found = records()
    assert found.one(learner="gd", depth=2)["loss"].shape == (200,)
    assert [r["depth"] for r in found[""].where(learner="layer")] == [1, 2]
    assert len(found.where(depth=[1, 2], learner="gd")) == 2
    assert found["curve"].axis("learner") == ["layer"]
    assert found[""].axis("depth") == [1, 2]
    assert found[""].where(learner="gd").stack("loss").shape == (2, 200)
    with pytest.raises(lab.Missing, match="depth=9"):
        found.one(learner="gd", depth=9)
    with pytest.raises(ValueError, match="differ in"):
        found[""].one(learner="gd")
    with pytest.raises(KeyError, match="leaner"):
        found.where(leaner="gd")
    with pytest.raises(lab.Missing, match="'surface'"):
        found["surface"]


def test_true_is_not_one():
    both = lab.Records([lab.record(tied=True, x=[1.0]), lab.record(tied=1, x=[2.0])])
    assert both.one(tied=True)["x"] == 1 and both.one(tied=1)["x"] == 2
    assert [type(value) for value in both.axis("tied")] == [bool, int]


def test_a_difference_by_count_and_a_reduction():
    """Of means: right answers over questions, and the share of a loss that is taken away."""
    rng = np.random.default_rng(1)
    asked = rng.integers(1, 9, (2, 30)).astype(float)
    right = [rng.binomial(asked.astype(int), p).astype(float) for p in (0.8, 0.3)]
    found = lab.Records(
        lab.record(layer=name, right=array, asked=asked)
        for name, array in zip(("mesa", "linear"), right, strict=True)
    )
    more = lab.difference("right", over="asked", layer=("mesa", "linear"))
    expected = (right[0].sum() - right[1].sum()) / asked.sum()
    assert more(found).value == pytest.approx(expected)
    low, high = more(found).ci95
    assert low < expected < high and (more(found).n_seeds, more(found).n_tasks) == (2, 30)
    fewer = lab.reduction("right", layer=("mesa", "linear"))(found)
    assert fewer.value == pytest.approx(1 - right[1].sum() / right[0].sum())
    with pytest.raises(ValueError, match="over"):
        lab.every(more, layer=...)


def same(found, expected):
    value, ends = expected
    assert (found.value, found.ci95) == (value, ends)


def test_declared_measures_are_the_statistics_they_name():
    found = records()
    layer, gd = (found[""].one(learner=name, depth=1)["loss"] for name in ("layer", "gd"))
    same(lab.mean("loss", learner="layer", depth=1)(found), lab.interval(layer))
    measured = lab.ratio("loss", learner=("layer", "gd"), depth=1)(found)
    same(measured, lab.interval(layer, gd, statistic=report.ratio))
    assert (measured.n_seeds, measured.n_tasks, measured.failure_rate) == (3, 200, 0.25)
    late = found[""].one(learner="layer", depth=2)
    same(
        lab.difference(("loss", "late"), learner="layer", depth=2)(found),
        lab.interval(late["loss"], late["late"], statistic=report.difference),
    )
    exact = lab.exact("error", record="exact")(found)
    assert exact.ci95 is None and exact.value == pytest.approx(1e-7)


def test_every_and_falls_are_about_all_places():
    found = records()
    every = lab.every(lab.ratio("loss", learner=("layer", "gd")), depth=...)(found)
    assert len(every.pairs) == 2
    assert every.within((0.9, 1.1)).failure_rate == 0.25
    assert lab.every(lab.ratio("loss", learner=("layer", "gd")), depth=[2])(found).pairs[0][
        0
    ].shape == (3, 200)
    with pytest.raises(lab.Missing):
        lab.every(lab.ratio("loss", learner=("layer", "gd")), depth=[1, 7])(found)
    mixed = lab.every(lab.ratio("loss", learner=("layer", "gd")), depth=..., task=["a", "b"])
    some = [
        lab.record(learner=name, depth=1, task=task, loss=np.ones(9))
        for name in ("gd", "layer")
        for task in ("a", "b")
    ]
    assert len(mixed(lab.Records(some)).pairs) == 2
    with pytest.raises(lab.Missing, match="task='b'"):
        mixed(lab.Records(some[:1] + some[2:3]))
    falls = lab.falls("loss", along="depth", learner="layer")(found).within((0, None))
    assert 0.9 < falls.value < 1.1 and falls.ci95[0] > 0
    with pytest.raises(lab.Missing, match="two values"):
        lab.falls("loss", along="depth", learner="gd", depth=1)(found)


def test_an_axis_or_a_shape_that_is_no_measurement_is_refused():
    found = lab.Records([lab.record(learner="gd", loss=0.5, many=np.ones(3))])
    with pytest.raises(ValueError, match="is an axis"):
        lab.mean("loss", learner="gd")(found)
    with pytest.raises(ValueError, match="one number"):
        lab.exact("many", learner="gd")(found)


def test_tables_and_figures_of_records():
    found = records()
    rows = lab.rows("loss", reference={"learner": "gd"})(found)
    assert [row["learner"] for row in rows] == ["gd", "gd", "layer", "layer"]
    assert rows[0]["ratio"] == 1 and 1.0 < rows[2]["ratio"] < 1.02
    assert rows[2]["best seed"] <= rows[2]["loss"] <= rows[2]["worst seed"]
    with report.style():
        points = lab.lines("depth", "loss", color="learner")(found)
        curves = lab.lines("step", "loss", record="curve", color="learner", log="xy")(found)
        bars = lab.bars("loss", x="depth", color="learner")(found)
    assert [len(fig.axes) for fig in (points, curves, bars)] == [1, 1, 1]
    drawn = {line.get_label(): line.get_ydata() for line in points.axes[0].lines}
    expected = [found[""].one(learner="gd", depth=d)["loss"].mean() for d in (1, 2)]
    np.testing.assert_allclose(drawn["gd"], expected)
    with pytest.raises(lab.Missing):
        lab.lines("depth", "loss", learner="nobody")(found)
    for fig in (points, curves, bars):
        pyplot.close(fig)


def test_a_wide_picture_of_bars_has_its_legend_and_a_gap_where_one_diverged():
    found = lab.Records(
        lab.record(depth=depth, learner=name, loss=np.full(4, loss))
        for depth in range(4)
        for name, loss in (("gd", 1.0), ("layer", np.inf if depth == 2 else 2.0))
    )
    with report.style():
        fig = lab.bars("loss", x="depth", color="learner")(found)
    fig.canvas.draw()  # a warning, which is an error here, if an end is infinite
    assert [text.get_text() for text in fig.legends[0].get_texts()] == ["gd", "layer"]
    heights = [patch.get_height() for patch in fig.axes[0].patches]
    assert np.isnan(heights).sum() == 1
    pyplot.close(fig)


def test_a_claim_beside_a_control_that_did_not_learn_is_not_judged():
    found = records()
    claimed = lab.ratio("loss", learner=("layer", "gd"), depth=1)
    control = lab.ratio("loss", learner="gd", depth=(2, 1))  # 0.8
    judged = lab.controlled(claimed, control, below=0.9, note="control")(found)
    plain = claimed(found)
    assert (judged.value, judged.ci95) == (plain.value, plain.ci95)
    assert judged.note == "control: 0.800"
    assert judged.failure_rate == 0.25
    left = lab.controlled(claimed, control, below=0.7, note="control")(found)
    assert np.isnan(left.value) and "control: 0.800" in left.note
