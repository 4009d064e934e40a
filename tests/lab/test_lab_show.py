"""Figures and tables that are declared over records: ratios, matrices, and choices in types."""

from typing import Literal

import numpy as np
import pytest

from ico import lab, report


class Config(lab.Config):
    """Two choices."""

    text: Literal["short", "long"] = "short"
    layers: lab.Distinct[Literal["a", "b"]] = ("a",)


@pytest.mark.parametrize(
    ("changes", "word"), [({"text": "none"}, "text"), ({"layers": ("a", "c")}, "layers")]
)
def test_choices_are_those_of_the_type(changes, word):
    Config().validate()
    with pytest.raises(ValueError, match=f"^{word} must be one of"):
        Config(**changes).validate()


@pytest.fixture
def answers():
    rng = np.random.default_rng(0)
    asked = rng.integers(5, 10, (2, 30)).astype(float)
    shares = {(layer, times): 0.9 / layer / times for layer in (1, 2) for times in (1, 2, 4)}
    return report.Records(
        lab.record(layer=layer, times=times, right=share * asked, asked=asked)
        for (layer, times), share in shares.items()
    )


def test_ratios_of_two_values_are_of_their_means(answers):
    (row, *_) = lab.rows("right", over="asked", name="accuracy")(answers)
    assert row["accuracy"] == pytest.approx(0.9) == row["best seed"]
    assert row["95% low"] == pytest.approx(row["95% high"])  # paired: exactly a share
    with report.style():
        fig = lab.lines("times", "right", over="asked", color="layer")(answers)
    drawn = {line.get_label(): line.get_ydata() for line in fig.axes[0].get_lines()}
    np.testing.assert_allclose(drawn["layer 2"], [0.45, 0.225, 0.1125])


def test_maps_draw_a_row_a_record_and_hide_what_is_not_there():
    records = report.Records(
        lab.record(model=name, pattern=np.zeros((heads, 3, 3)))
        for name, heads in (("ab", 2), ("c", 1))
    )
    with report.style():
        fig = lab.maps("pattern", each="head")(records)
    shown = [ax.get_title() for ax in fig.axes if ax.axison]
    assert shown == ["ab\nhead 1", "head 2", "c\nhead 1"]
    with pytest.raises(lab.Missing):
        lab.maps("nothing")(records)


def test_looks_differ_for_many_learners():
    looks = [report.panels.look(place) for place in range(28)]
    assert len({(str(one["color"]), str(one["linestyle"])) for one in looks}) == 28


def test_a_row_of_maps_may_have_its_own_scale_around_zero():
    records = report.Records(
        lab.record(which=name, m=size * np.array([[[1.0, np.nan], [-2.0, 0.0]]]))
        for name, size in (("a", 1.0), ("b", 10.0))
    )
    draw = lab.maps("m", each=["only"], low=None, high=lambda m: 2 * np.nanmax(np.abs(m)))
    with report.style():
        fig = draw(records)
    scales = [ax.images[0].get_clim() for ax in fig.axes if ax.images]
    assert scales == [(-4.0, 4.0), (-40.0, 40.0)]
    assert [ax.get_title() for ax in fig.axes if ax.images] == ["a\nonly", "b\nonly"]


def test_panels_may_be_a_grid_and_points_medians():
    records = report.Records(
        lab.record(a=a, b=b, x=x, y=np.array([0.0, 1.0, 1000.0]) + x)
        for a in "pq"
        for b in "rs"
        for x in (1, 2)
        if a + b != "qs"
    )
    with report.style():
        fig = lab.lines("x", "y", of=report.median, panel=("a", "b"))(records)
    assert [ax.get_title() for ax in fig.axes] == ["p\nr", "q\nr", "p\ns", "q\ns"]
    assert [len(ax.get_lines()) for ax in fig.axes] == [1, 1, 1, 0]
    np.testing.assert_allclose(fig.axes[0].get_lines()[0].get_ydata(), [2.0, 3.0])


def test_points_are_rows_of_every_curve():
    curve = {"step": np.arange(1, 3), "loss": np.array([0.5, 0.25])}
    records = report.Records([lab.record(of="a", **curve)])
    assert lab.points("loss", along="step")(records) == [
        {"of": "a", "step": 1, "loss": 0.5},
        {"of": "a", "step": 2, "loss": 0.25},
    ]


def test_every_colour_is_named_wherever_it_first_stands():
    records = report.Records(
        lab.record(place=place, method=method, loss=np.ones((2, 3)))
        for place, method in [("a", "one"), ("b", "two"), ("b", "one"), ("c", "three")]
    )
    figure = lab.bars("loss", x="place", color="method")(records)
    names = [text.get_text() for legend in figure.legends for text in legend.get_texts()]
    assert sorted(names) == ["one", "three", "two"]


def test_numbers_on_logarithmic_axes_are_written_out_and_few():
    records = report.Records(
        lab.record(share=share, loss=np.full((2, 3), share)) for share in (0.02, 0.1, 0.8)
    )
    figure = lab.lines("share", "loss", log="xy")(records)
    figure.canvas.draw()
    for axis in (figure.axes[0].xaxis, figure.axes[0].yaxis):
        shown = [label.get_text() for label in axis.get_ticklabels() if label.get_text()]
        assert "0.05" in shown and len(shown) < 12
