"""A folder that holds something else than a run should is refused in a line, or does no harm."""

import pytest

from tests.lab.conftest import assert_refused


@pytest.mark.parametrize("text", ["5", "null", '{"first": 1}', "[1]", "[" * 5_000, "\x00", ""])
def test_damaged_marks_of_what_is_to_be_done_are_named(paper, text):
    paper("--studies", "first")
    (paper.out / ".unfinished.json").write_text(text)
    assert_refused(paper("--resume"), ".unfinished.json")


NAMES = ["config.json", ".unfinished.json", ".lock", "results.json", "report.html"]
NAMES += ["studies/first.json", "studies/first.npz", "figures/x.svg"]


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_where_a_file_belongs(paper, name):
    """One line that names it, or a run that does without; never a traceback."""
    (paper.out / name).mkdir(parents=True)
    if name != "config.json":
        (paper.out / "config.json").write_text('{"experiment": "tiny"}')
    status, _, err = paper("--resume")
    lines = [line for line in err.splitlines() if not line.startswith("warning: ")]
    assert (status, lines) == (0, []) or (status == 2 and len(lines) == 1), err
    if status:
        assert str(paper.out) in lines[0] or "no run of ours" in lines[0]


@pytest.mark.parametrize("name", ["studies", "figures", "checkpoints"])
def test_a_file_where_a_folder_belongs(paper, name):
    paper.out.mkdir()
    (paper.out / "config.json").write_text('{"experiment": "tiny"}')
    (paper.out / name).write_text("")
    status, _, err = paper("--resume")
    assert status == 0 or (status == 2 and err.count("\n") == 1 and str(paper.out) in err)


def test_a_link_to_nothing_and_no_folder_at_all(paper, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.iterdir())
    for empty in ("", "  "):
        assert_refused(paper("--out", empty, out=False), "out: is empty")
        assert_refused(paper(f"--out={empty}", out=False), "out: is empty")
    assert sorted(tmp_path.iterdir()) == before
    paper.out.symlink_to(tmp_path / "gone")
    assert_refused(paper(), "link to nothing", str(paper.out))
    assert_refused(paper("--out", str(paper.out / "below"), out=False), "link to nothing")
    paper.out.unlink()
    paper.out.symlink_to(paper.out)
    assert_refused(paper(), str(paper.out))
