"""Pages, tables, figures and READMEs: safe, self-contained, readable, repeatable."""

import dataclasses
import html.parser
import itertools
import json
import re

import numpy as np
import pytest

from experiments._discovery import discover
from experiments.report.run import check_whole, main, publish
from ico import report
from ico.report import _format, _plot

HOSTILE = """<script>alert(1)</script>"'><img src=http://evil.example/x>|`*"""  # as in conftest
VOID = {"meta", "img", "rect", "line", "circle"}


class Reader(html.parser.HTMLParser):
    """Checks nesting, and gathers tags, attributes and text."""

    def __init__(self, markup):
        super().__init__()
        self.open, self.tags, self.words = [], [], []
        self.feed(markup)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def _draw(directory, name="loss"):
    from matplotlib import pyplot

    with report.style():
        fig, ax = pyplot.subplots()
        values_STX = np.random.default_rng(0).normal(size=(3, 20, 8))
        report.mean_line(ax, np.arange(8), values_STX, label="trained", resamples=50)
        report.mean_line(ax, np.arange(8), np.zeros(8), label="zero")
        ax.set(xlabel="step", ylabel="loss")
        ax.legend()
        return report.save_figure(fig, directory, name)


def _page(run, **changes):
    arguments = dict(
        title=f"Title {HOSTILE}",
        paper=HOSTILE,
        abstract=HOSTILE,
        link="https://arxiv.org/abs/2212.07677",
        questions={"one_layer": HOSTILE, "real": "Does it transfer?"},
        figures=[("one_layer", "loss", HOSTILE), ("deep", "absent", "Gone.")],
    )
    return report.write_html(run, **(arguments | changes)).read_text()


def test_hostile_text_stays_text(run):
    _draw(run)
    markup = _page(run)
    reader = Reader(markup)
    tags = {tag for tag, _ in reader.tags}
    assert not tags & {"script", "iframe", "object", "link", "base", "form"}
    assert all(not name.startswith("on") for _, attrs in reader.tags for name in attrs)
    assert sum(tag == "img" for tag, _ in reader.tags) == 1
    assert "<script>" not in markup
    # It is there to be read: title, paper, abstract, question, claim, note, tables, config ...
    assert "".join(reader.words).count("<script>alert(1)</script>") >= 12
    captions = [attrs["alt"] for tag, attrs in reader.tags if tag == "img"]
    assert captions == [HOSTILE]


def test_nothing_is_fetched(run):
    _draw(run)
    markup = _page(run)
    for tag, attrs in Reader(markup).tags:
        for name in ("src", "href", "srcset", "data", "action", "poster"):
            target = attrs.get(name, "#")
            outside = not target.startswith(("#", "data:image/"))
            assert not outside or (tag, target) == ("a", "https://arxiv.org/abs/2212.07677")
    style = re.search(r"<style>(.*?)</style>", markup, re.S).group(1)
    assert "url(" not in style
    assert "@import" not in style
    assert "default-src 'none'" in markup


def test_only_https_becomes_a_link(run):
    tags = Reader(_page(run, link="javascript:alert(1)")).tags
    assert all(attrs["href"].startswith("#") for tag, attrs in tags if tag == "a")


def test_the_page_shows_every_study_and_verdict(run):
    markup = _page(run)
    text = "".join(Reader(markup).words)
    for study in ("one_layer", "deep", "sine", "real"):
        assert markup.count(f'id="study-{study}"') == 1
    for word in ("✓ reproduced", "✗ not reproduced", "? inconclusive", "– not run"):
        assert word in text
    assert "2 of 6 claims reproduced. 1 did not. 2 inconclusive" in text
    assert "This study was not run." in text
    assert "“absent” is missing" in text
    assert "0.2063" in text
    assert "0.2051 to 0.2074" in text


def test_the_page_needs_no_config_and_no_figures(tmp_path, write):
    write(tmp_path)
    assert "model.layers" in _page(tmp_path, figures=())
    (tmp_path / "config.json").write_text("{")
    _page(tmp_path, figures=())


@pytest.mark.parametrize("band", [(0.0, 1.0), (None, 1.0), (1.0, None), (1.0, 1.0), (0.4, 0.41)])
def test_interval_plots_are_finite_and_in_the_picture(band):
    intervals = [None, [0.3, 0.5], [0.5, 0.5], [None, 0.5], [-1e9, 1e9]]
    for ci95, value in itertools.product(intervals, [0.5, 1.0, 0.0, None]):
        claim = {"measured": value, "ci95": ci95, "band": list(band), "verdict": "inconclusive"}
        svg = _plot.interval_svg(claim)
        assert (svg == "") == (value is None)
        Reader(svg)
        places = [float(x) for x in re.findall(r' (?:x|x1|x2|cx)="([^"]*)"', svg)]
        assert all(-5 <= x <= _plot._WIDTH + 5 for x in places)


@pytest.mark.parametrize(
    ("value", "ci95", "expected"),
    [
        (0.206312, (0.20512, 0.20744), ("0.2063", "0.2051 to 0.2074")),
        (0.998234, (0.9979, 0.99851), ("0.99823", "0.99790 to 0.99851")),
        (1234.56, (1200.0, 1300.0), ("1235", "1200 to 1300")),
        (-0.5, (-0.6, -0.4), ("−0.50", "−0.60 to −0.40")),
        (3.1e-6, None, ("3.10e-6", "")),
        (0.0, None, ("0", "")),
        (None, (None, None), ("not finite", "not finite")),
        (2.0, (2.0, 2.0), ("2.000", "2.000 to 2.000")),
    ],
)
def test_numbers_show_what_the_interval_allows(value, ci95, expected):
    assert _format.measured({"measured": value, "ci95": ci95}) == expected


def test_bands_read_as_they_were_typed():
    texts = [_format.band({"band": b}) for b in [(0.99, None), (None, 1e-4), (-0.5, 20)]]
    assert texts == ["at least 0.99", "at most 1e-4", "−0.5 to 20"]


def test_figures_are_the_same_bytes_twice(tmp_path):
    for folder in ("a", "b"):
        _draw(tmp_path / folder)
    for kind in ("svg", "png"):
        a, b = ((tmp_path / f / "figures" / f"loss.{kind}").read_bytes() for f in ("a", "b"))
        assert a == b
        assert len(a) > 1000
    assert "<dc:date>" not in (tmp_path / "a" / "figures" / "loss.svg").read_text()


def test_style_leaves_no_trace():
    import matplotlib

    before = dict(matplotlib.rcParams)
    with report.style():
        assert matplotlib.rcParams["axes.grid"]
    assert dict(matplotlib.rcParams) == before
    assert len(set(report.palette())) == 7
    assert report.palette(9)[7:] == report.palette(2)


def test_markdown_rows_have_one_line_and_five_cells(run):
    text = report.claims_markdown(report.read_results(run))
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len(rows) == 2 + 6
    for row in rows:
        assert len(re.findall(r"(?<!\\)\|", row)) == 6
        assert "<" not in row
    last = text.splitlines()[-1]
    assert "cpu preset, 5 seeds, 2 minutes on " in last


def test_reproduction_table_over_folders_and_results(run):
    results = report.read_results(run)
    assert report.reproduction_table([run, run]) == report.reproduction_table([results] * 2)
    tags = {tag for tag, _ in Reader(report.reproduction_table([run], "html")).tags}
    assert "script" not in tags
    with pytest.raises(ValueError, match="format"):
        report.reproduction_table([run], "latex")


def test_markers_are_replaced_and_nothing_else(tmp_path):
    path = tmp_path / "README.md"
    path.write_text("# Größe\n<!-- results:a -->\nold\n<!-- /results:a -->\nend\n")
    assert report.replace_between_markers(path, "results:a", "new", write=False)
    assert "old" in path.read_text()
    assert report.replace_between_markers(path, "results:a", "new\n")
    expected = "# Größe\n<!-- results:a -->\n\nnew\n\n<!-- /results:a -->\nend\n"
    assert path.read_text() == expected
    assert not report.replace_between_markers(path, "results:a", "new")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "<!-- m -->",
        "<!-- /m --><!-- m -->",
        "<!-- m --><!-- /m --><!-- m --><!-- /m -->",
    ],
)
def test_wrong_markers_change_nothing(tmp_path, text):
    path = tmp_path / "README.md"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"README\.md: "):
        report.replace_between_markers(path, "m", "new")
    assert path.read_text() == text


def test_command_prints_and_writes_the_table(run, capsys, tmp_path):
    page, text = tmp_path / "out" / "table.html", tmp_path / "out" / "table.md"
    assert main([str(run), "--html", str(page), "--markdown", str(text)]) == 0
    assert capsys.readouterr().out == text.read_text()
    Reader(page.read_text())


def test_command_goes_on_past_a_folder_without_results(run, capsys, tmp_path):
    assert main([str(tmp_path / "absent"), str(run)]) == 2
    printed = capsys.readouterr()
    assert "gd_in_context" in printed.out
    assert printed.err.count("\n") == 1
    assert "absent" in printed.err


@pytest.fixture
def repository(tmp_path):
    root = tmp_path / "repository"
    folder = root / "experiments" / "gd_in_context"
    folder.mkdir(parents=True)
    section = "<!-- results:gd_in_context -->\n<!-- /results:gd_in_context -->\n"
    (folder / "README.md").write_text(section)
    (root / "README.md").write_text(
        f"<!-- results:summary -->\n<!-- /results:summary -->\n{section}"
    )
    return root


def test_publishing_copies_results_and_fills_both_readmes(run, repository):
    publish(report.read_results(run), "gd_in_context", repository)
    folder = repository / "experiments" / "gd_in_context"
    assert report.read_results(folder) == report.read_results(run)
    claims = report.claims_markdown(report.read_results(run))
    assert claims in (folder / "README.md").read_text()
    home = (repository / "README.md").read_text()
    assert claims in home
    assert "| gd_in_context (seed 0) | 1 / 2 | 0 / 1 | 0 / 2 | 0 / 1 |" in home


@pytest.mark.parametrize("fault", ["name", "smoke", "markers", "two", "absent", "part"])
def test_publishing_is_refused_whole(run, repository, write, capsys, fault):
    arguments = [str(run), "--readme", "gd_in_context"]
    readme = repository / "experiments" / "gd_in_context" / "README.md"
    if fault == "name":
        arguments[-1] = "hypertransformer"
    if fault == "smoke":
        write(run, preset="smoke")
    if fault == "markers":
        readme.write_text("nothing here")
    if fault == "two":
        arguments.insert(0, str(run))
    if fault == "absent":
        readme.unlink()
    home = (repository / "README.md").read_text()
    known = {"gd_in_context": discover()[0]["gd_in_context"]}
    assert main(arguments, root=repository, known=known) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert (repository / "README.md").read_text() == home
    assert not (readme.parent / "results.json").exists()


@pytest.mark.parametrize(
    "fault", ["", "field", "part", "missing", "band", "dirty", "unknown", "artefact", "preset"]
)
def test_only_a_whole_run_of_a_preset_is_published(fault):
    """So that neither a demo nor one study nor uncommitted code ends in the README."""
    experiment = discover()[0]["gd_in_context"]
    results = {
        "preset": "cpu",
        "git": "0123abc",
        "config": json.loads(json.dumps(dataclasses.asdict(experiment.presets["cpu"]))),
        "claims": [
            {"id": claim.id, "verdict": "inconclusive", "band": list(claim.band)}
            for claim in experiment.claims
        ],
    }
    if fault == "field":
        results["config"]["one_layer_steps"] = 1_500
    if fault == "part":
        results["claims"].pop()
    if fault == "missing":
        results["claims"][3]["verdict"] = "not run"
    if fault == "band":
        results["claims"][3]["band"] = [0, 1]
    if fault == "artefact":
        results["artifact_commits"] = ["0123abc", "4567def-dirty"]
    if fault in ("dirty", "unknown"):
        results["git"] = "0123abc-dirty" if fault == "dirty" else "unknown"
    if fault == "preset":
        results["preset"] = "demo"
    if not fault:
        check_whole(results, experiment)
        return
    with pytest.raises(ValueError, match="--readme"):
        check_whole(results, experiment)
