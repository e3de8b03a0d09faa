"""Committed values: written by claim, read back, judged without a run; tables lose no row."""

import json
import math
from pathlib import Path

import pytest
from claim_builder import make_claim, values_by_seed
from claim_project import Project
from filelock import FileLock

from lightning_modules.config.errors import UserError
from lightning_modules.reproduction import committed_results
from lightning_modules.reproduction.committed_results import Result, merge_newest, read_results, write_results
from lightning_modules.reproduction.verdict import judge
from lightning_modules.tracking.provenance_line import RunProvenance

ORIGIN = RunProvenance("2026-11-22", "c9737f9", "AMD EPYC, 2 cores, no GPU, Python 3.11.7, torch 2.14.1")
VALUES = {"": {0: 85.5, 1: 86.25, 2: 84.75}}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "paper").mkdir()
    monkeypatch.setattr(committed_results, "EXPERIMENTS", tmp_path)
    return tmp_path


def result(values: dict[str, dict[int, float]] = VALUES, day: str = "2026-11-22") -> Result:
    return Result("test/accuracy", "%", values, ORIGIN._replace(date=day), 12.0)


def test_values_are_merged_by_claim_and_read_back(folder: Path) -> None:
    arms = result({"a": {0: 1.0, 1: 2.0}, "b": {1: 0.1 + 0.2}})
    assert write_results({"paper/one": result(), "paper/two": arms}) == [folder / "paper" / "results.json"]
    later = result({"": {5: 1.0}})
    write_results({"paper/two": later})
    assert read_results(["paper/one", "paper/two", "paper/none"]) == {"paper/one": result(), "paper/two": later}
    assert (arms.n, later.n) == (1, 1)
    entry = json.loads((folder / "paper" / "results.json").read_text())["paper/one"]
    assert entry == {
        "metric": "test/accuracy", "unit": "%", "n": 3, "values": {"": {"0": 85.5, "1": 86.25, "2": 84.75}},
        "seconds": 12.0, "date": "2026-11-22", "commit": "c9737f9", "machine": "AMD EPYC, 2 cores, no GPU",
        "versions": "Python 3.11.7, torch 2.14.1",
    }  # fmt: skip
    assert write_results({"paper/two": later}) == []


@pytest.mark.parametrize("text", ["{", "[]", '{"paper/one": {"metric": "m"}}'])
def test_a_file_that_cannot_be_read_is_named(folder: Path, text: str) -> None:
    (folder / "paper" / "results.json").write_text(text)
    with pytest.raises(UserError, match=r"paper/results\.json: "):
        read_results(["paper/one"])


def test_what_was_measured_later_counts_and_nothing_measured_does_not() -> None:
    old, new = result(day="2026-11-22"), result({"": {0: 1.0}}, day="2026-11-23")
    assert merge_newest({"p/a": old}, {"p/a": new})["p/a"] is new
    assert merge_newest({"p/a": new}, {"p/a": old})["p/a"] is new
    assert merge_newest({"p/a": old}, {"p/a": result({"": {}}, day="2026-12-01"), "p/b": new}) == {
        "p/a": old,
        "p/b": new,
    }


def test_a_summary_is_judged_as_its_values_would_be() -> None:
    ours = values_by_seed(91.2, 92.9, 92.5, 93.1)
    judged = judge(make_claim(value=92.0), {"": ours})
    assert judged.ours_mean is not None
    assert judged.ours_std is not None
    summary = Result(
        "test/accuracy", "%", {}, ORIGIN, summary=(judged.ours_mean, judged.ours_std, 4), note="of a table"
    )
    again = judge(make_claim(value=92.0), summary.values_for(make_claim(value=92.0)))
    assert (again.verdict, again.n, again.low) == (judged.verdict, 4, pytest.approx(judged.low))
    order = make_claim(kind="ordering", arms=[{"name": name} for name in "abc"])
    found = judge(order, Result("m", "%", {}, ORIGIN, summary=(3.0, 1.0, 5)).values_for(order))
    assert (found.verdict, found.low) == ("REPRODUCED", pytest.approx(3 - 2.131847 / math.sqrt(5)))


TEXT = "# Title\n<!-- claims -->\n\n| old |\n\n<!-- /claims -->\n"


@pytest.mark.slow
def test_tables_are_made_of_committed_values_and_checked_before_the_first_is_written(
    project: Project, digits_hash: str
) -> None:
    for name in ("paper/one", "paper/two", "paper/none", "other/one"):
        project.claim(name, {"data": digits_hash})
    for folder, names in (("paper", ["paper/one", "paper/two"]), ("other", ["other/one"])):
        entry = {"metric": "test/accuracy", "unit": "%", "values": {"": {"0": 85.5, "1": 86.25, "2": 84.75}}, "n": 3}
        entry |= {"seconds": 12.0, "date": "2026-11-22", "commit": "c9737f9", "machine": "EPYC", "versions": "Python 3"}
        (project.folder / "experiments" / folder / "results.json").write_text(json.dumps(dict.fromkeys(names, entry)))
    files = [project.folder / "experiments" / name for name in ("README.md", "paper/README.md", "other/README.md")]
    for file in files[:2]:
        file.write_text(TEXT)
    refused = project.reproduce("all", "table=true", "partial=true")
    assert refused.returncode == 1
    assert "experiments/other/README.md: no such file" in refused.stderr
    assert [file.read_text() for file in files[:2]] == [TEXT, TEXT]
    files[2].write_text(TEXT)
    whole = project.reproduce("all", "table=true")
    assert whole.returncode == 1
    assert "README.md is unchanged: no result for paper/none; use partial=true to write it without them" in whole.stderr
    written = project.reproduce("paper", "table=true", "partial=true")
    assert written.returncode == 0, written.stderr
    for file in files[:2]:
        assert "| paper/one |" in file.read_text()
        assert "| paper/two |" in file.read_text()
        assert "85.50 % \\[83.64, 87.36\\] (3)" in file.read_text()
        assert "No verdict yet: paper/none." in file.read_text()
    assert "| other/one |" in files[0].read_text()
    judged = project.reproduce("paper/one", "judge=true")
    assert judged.returncode == 0, judged.stderr
    assert "from the values in experiments/paper/results.json" in judged.stdout


@pytest.mark.slow
def test_a_claim_that_runs_elsewhere_is_not_judged(project: Project, digits_hash: str) -> None:
    project.claim("paper/linear", {"data": digits_hash, "seeds": [0], "expect": "INCONCLUSIVE"})
    lock = project.folder / "mlruns" / "sweeps" / "paper.linear" / "lock"
    lock.parent.mkdir(parents=True)
    with FileLock(lock):
        busy = project.reproduce("paper/linear")
    assert busy.returncode == 1
    assert "paper/linear: not judged: sweep=paper.linear: another process is running this sweep" in busy.stderr
    assert "INVALID" not in busy.stdout
