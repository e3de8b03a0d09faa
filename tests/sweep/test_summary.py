"""What a sweep's run shows of its trials, read from and written to a real store."""

import csv
import io
import json
import math
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console
from sweep_fixture import BOTH, LOSS, RESUME, Sweep, made_up

from lightning_modules.config.run_names import NAME_LIMIT, run_name
from lightning_modules.sweep import trial_results as children_module
from lightning_modules.sweep.plans import Outcome, Trial
from lightning_modules.sweep.progress import SweepProgress, terminal_summary
from lightning_modules.sweep.summary import DESCRIPTION_LIMIT, mlflow_description, write_summary
from lightning_modules.sweep.sweep_store import SweepStore
from lightning_modules.sweep.trial_results import TrialResult
from lightning_modules.sweep.trial_table import best_trial, pareto_front, to_csv, to_html
from lightning_modules.tracking.store import open_store


@pytest.fixture
def sweep(store: Any) -> Sweep:
    return Sweep(store, ["optimizer.lr", "seed"], LOSS)


# --- names -----------------------------------------------------------------------------------------------------
def test_a_run_is_named_by_what_was_swept_in_the_order_of_the_keys() -> None:
    assert run_name({"seed": 3, "optimizer.lr": 0.01}, ["optimizer.lr", "seed"]) == "lr=0.01 seed=3"


def test_keys_that_end_alike_are_called_by_the_shortest_tail_that_tells_them_apart() -> None:
    params = {
        "model.dropout": 0.1,
        "model.head.dropout": 0.2,
        "optimizer/groups": "by_depth",
        "lr": 1,
        "optimizer.lr": 2,
    }
    expected = "model.dropout=0.1 head.dropout=0.2 groups=by_depth lr=1 optimizer.lr=2"
    assert run_name(params, list(params)) == expected


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.1 + 0.2, "0.3"), (1e-05, "1e-5"), (0.0001, "0.0001"), (2.5e7, "2.5e7"), (0.00012345678, "0.000123457"), (True, "true"),
        (None, "null"), ([64, 0.5], "[64,0.5]"), ("a\nb", "a b"), (math.inf, "inf"),
    ],
)  # fmt: skip
def test_values_are_written_short_and_as_one_would_type_them(value: Any, text: str) -> None:
    assert run_name({"x": value}, ["x"]) == f"x={text}"


def test_a_name_has_at_most_250_characters_and_skips_keys_that_are_not_set() -> None:
    assert len(run_name({"a": "x" * 400, "b": 1}, ["a", "b"])) == NAME_LIMIT
    assert run_name({"b": 1}, ["a", "b"]) == "b=1"


# --- children --------------------------------------------------------------------------------------------------
def test_children_are_read_with_status_params_and_their_best_value(sweep: Sweep) -> None:
    other = sweep.store.experiment("another experiment")
    ids = [
        sweep.child(
            0, {"optimizer.lr": 0.1, "seed": 0}, {"val/loss": [0.5, 0.2, 0.9], "test/loss": 0.4, "train/loss": 1.0}
        ),
        sweep.child(1, {"optimizer.lr": 0.2, "seed": 0}, {"val/loss": [0.7]}, "KILLED", touchstone_ended="PRUNED"),
        sweep.child(2, {"optimizer.lr": 0.3, "seed": 0}, {}, "FAILED", touchstone_error="ValueError: no\nmore"),
        sweep.child(10, {"optimizer.lr": 0.4, "seed": 0}, {"val/loss": [math.nan, math.inf]}, experiment=other),
        sweep.child(4, {"optimizer.lr": 0.5, "seed": 0}, {}, "KILLED", touchstone_ended="STOPPED"),
        sweep.child(5, {"optimizer.lr": 0.6, "seed": 0}, {"val/loss": [0.3]}, "RUNNING"),
    ]
    found = sweep.children()
    assert [child.number for child in found] == [0, 1, 2, 4, 5, 10]
    assert [child.status for child in found] == ["FINISHED", "PRUNED", "FAILED", "KILLED", "RUNNING", "FINISHED"]
    assert [child.values["val/loss"] for child in found] == [0.2, 0.7, None, None, 0.3, None]
    assert [child.run_id for child in found] == [*ids[:3], *ids[4:], ids[3]]
    assert found[0].name == "lr=0.1 seed=0"
    assert found[0].params == {"optimizer.lr": 0.1, "seed": 0}
    assert found[0].metrics == {"val/loss": 0.9, "test/loss": 0.4}, "the latest, and none of the training"
    assert found[2].error == "ValueError: no\nmore"
    assert found[0].error is None
    assert found[4].duration_s is None
    assert found[0].duration_s is not None
    assert found[5].experiment_id == other


def test_a_store_that_cannot_be_read_by_sql_gives_the_same_children(
    sweep: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep.child(0, {"optimizer.lr": 0.1}, {"val/loss": [0.5, math.nan, 0.2, -math.inf, 0.9]})
    sweep.child(1, {"optimizer.lr": 0.2}, {"val/loss": [math.nan, -math.inf]})
    by_sql = sweep.children()
    monkeypatch.setattr(children_module, "_extremes_by_sql", children_module._extremes_by_client)
    assert sweep.children() == by_sql
    assert [child.values["val/loss"] for child in by_sql] == [0.2, None]


def test_an_objective_to_maximise_takes_the_highest_value(store: Any) -> None:
    sweep = Sweep(store, ["seed"], {"val/accuracy": "maximize"})
    sweep.child(0, {"seed": 1}, {"val/accuracy": [0.1, 0.8, 0.6]})
    assert sweep.children()[0].values == {"val/accuracy": 0.8}


def test_children_come_from_several_pages(sweep: Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lightning_modules.tracking.store.RUNS_PER_PAGE", 2)
    monkeypatch.setattr(children_module, "_IDS_PER_QUERY", 2)
    for number in range(5):
        sweep.child(number, {"seed": number}, {"val/loss": float(number)})
    assert [child.values["val/loss"] for child in sweep.children()] == [0, 1, 2, 3, 4]


def test_a_trial_begun_anew_is_its_newest_run_and_counts_its_attempts(sweep: Sweep) -> None:
    sweep.child(0, {"seed": 0}, {}, "FAILED")
    time.sleep(0.002)  # the store knows milliseconds
    newest = sweep.child(0, {"seed": 0}, {"val/loss": 1.0})
    sweep.child(1, {"seed": 1}, {"val/loss": 1.0}, sweep_failures="2")  # the same run, gone on with twice
    sweep.child(2, {"seed": 2}, {}, "FAILED", sweep_failures="2")
    first, second, third = sweep.children()
    assert (first.run_id, first.status, first.attempts) == (newest, "FINISHED", 2)
    assert (second.attempts, third.attempts) == (3, 2)


def test_an_older_run_stands_for_a_trial_with_the_values_of_its_params(sweep: Sweep) -> None:
    old = sweep.client.create_run(sweep.experiment, run_name="brave-fox").info.run_id
    for key, value in {"optimizer.lr": "1e-05", "seed": "3", "model": "mlp"}.items():
        sweep.client.log_param(old, key, value)
    sweep.log(old, {"val/loss": [0.3, 0.1]})
    sweep.client.set_terminated(old, "FINISHED")
    gone = sweep.client.create_run(sweep.experiment).info.run_id
    sweep.client.delete_run(gone)
    sweep.client.set_tag(sweep.run_id, "sweep.link.7", old)
    sweep.client.set_tag(sweep.run_id, "sweep.linked", json.dumps({"8": gone}))
    linked, missing = sweep.children()
    assert (linked.number, linked.run_id, linked.linked, linked.status) == (7, old, True, "FINISHED")
    assert (linked.name, linked.params) == ("lr=1e-5 seed=3", {"optimizer.lr": 1e-05, "seed": 3})
    assert linked.values == {"val/loss": 0.1}
    assert (missing.number, missing.status, missing.values) == (8, "MISSING", {"val/loss": None})


# --- ranking ---------------------------------------------------------------------------------------------------
def test_the_best_child_has_finished_and_has_a_value() -> None:
    tried = [
        made_up(0, {}, "PRUNED", val__loss=0.1), made_up(1, {}, val__loss=None), made_up(2, {}, val__loss=0.5),
        made_up(3, {}, val__loss=0.5), made_up(4, {}, "FAILED", val__loss=0.2), made_up(5, {}, val__loss=0.9),
    ]  # fmt: skip
    assert [best_trial(tried, {"val/loss": way}).number for way in ("minimize", "maximize")] == [2, 5]  # type: ignore[union-attr]
    assert best_trial(tried[:2], LOSS) is None
    assert best_trial(tried, BOTH) is None


def test_the_pareto_front_holds_what_nothing_dominates() -> None:
    points = [(0.9, 10), (0.8, 5), (0.85, 10), (0.8, 5), (0.5, 1), (0.5, 2), (0.95, None)]
    tried = [made_up(i, {}, val__accuracy=a, model__size_bytes=s) for i, (a, s) in enumerate(points)]
    assert [one.mean.number for one in pareto_front(tried, BOTH)] == [0, 1, 3, 4]


# --- tables ----------------------------------------------------------------------------------------------------
def test_the_csv_has_every_child_and_every_number_in_full(sweep: Sweep) -> None:
    sweep.child(0, {"optimizer.lr": 0.1, "seed": 0}, {"val/loss": [1 / 3, 0.5], "test/accuracy": 2 / 3})
    sweep.child(1, {"optimizer.lr": 0.2}, {}, "FAILED", touchstone_error='a "quoted", reason\nline 2')
    first, second = csv.DictReader(io.StringIO(to_csv(sweep.children(), LOSS)))
    assert (float(first["best val/loss"]), float(first["val/loss"])) == (1 / 3, 0.5)
    assert float(first["test/accuracy"]) == 2 / 3
    assert (first["optimizer.lr"], first["seed"], first["status"]) == ("0.1", "0", "FINISHED")
    assert (second["seed"], second["best val/loss"], second["error"]) == ("", "", 'a "quoted", reason')


def test_the_page_marks_the_best_and_escapes_what_the_user_wrote() -> None:
    tried = [made_up(0, {"name": "<script>"}, val__loss=2.0), made_up(1, {"name": "b"}, val__loss=1.0)]
    page = to_html(tried, LOSS, "Sweep <x>")
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
    assert page.count('<tr class="best ') == 1
    assert page.index(f"{1:032x}") < page.index(f"{0:032x}"), "the best first"


def test_the_description_names_the_best_run_links_it_and_says_how_to_go_on(sweep: Sweep) -> None:
    sweep.child(0, {"optimizer.lr": 0.1, "seed": 0}, {"val/loss": 0.5})
    winner = sweep.child(1, {"optimizer.lr": 0.2, "seed": 0}, {"val/loss": 0.25, "test/accuracy": 0.75})
    sweep.child(2, {"optimizer.lr": 0.3, "seed": 0}, {}, "FAILED")
    sweep.summarise(final=False)
    note = sweep.tags()["mlflow.note.content"]
    assert "3 runs: 2 finished, 1 failed" in note
    link = f"#/experiments/{sweep.experiment}/runs/{winner}?workflowType=machine_learning"
    assert f"**Best:** [lr=0.2 seed=0]({link}) with val/loss 0.25" in note
    assert "| 1 | [lr=0.2" in note
    assert "| 0.75 |" in note
    assert RESUME in note
    assert f"touchstone compare {sweep.run_id}" in note


def test_a_description_of_long_names_fits_into_a_tag() -> None:
    tried = [made_up(i, {"a.path": f"{i}|{'*' * 600}"}, val__loss=float(i)) for i in range(300)]
    note = mlflow_description(tried, LOSS, "1", "f" * 32, RESUME)
    assert len(note) <= DESCRIPTION_LIMIT
    assert RESUME in note
    assert "of 300 runs; all are in `sweep/children.html`" in note


def test_the_terminal_shows_the_top_ten_the_counts_and_what_failed() -> None:
    tried = [made_up(i, {"width": i}, val__loss=float(i)) for i in range(12)]
    tried.append(
        TrialResult(
            12, "c" * 32, "seed=[/x]", {}, "FAILED", {"val/loss": None}, {}, 1.0, error="ValueError: no [red]\nat"
        )
    )
    console = Console(file=io.StringIO(), width=160)
    console.print(terminal_summary(tried, LOSS, "sweep tuning"))
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "sweep tuning: 13 runs: 12 finished, 1 failed" in shown
    assert "width=9" in shown
    assert "width=10" not in shown
    assert "failed seed=[/x]: ValueError: no [red]\n" in shown
    assert f"best   width=0  val/loss 0  {0:032x}" in shown


def test_an_error_of_many_trials_is_shown_once(store: Any, capsys: pytest.CaptureFixture[str]) -> None:
    error = "UserError: no such column"
    trials = [TrialResult(i, f"{i:032x}", f"lr={i}", {}, "FAILED", {}, {}, 1.0, error=error) for i in range(7)]
    console = Console(file=io.StringIO(), width=160)
    console.print(terminal_summary(trials, LOSS, "sweep tuning"))
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert shown.count(error) == 1 and "failed lr=0 and 6 more: UserError: no such column\n" in shown
    sweep = Sweep(store, ["lr"], LOSS)
    plan: Any = SimpleNamespace(total=7, keys=["lr"])
    progress = SweepProgress(SweepStore(sweep.store, sweep.client.get_run(sweep.run_id), Path()), plan, "")
    for number in range(7):
        progress.trial_ended(Trial(number, {"lr": number}, (), f"lr={number}"), Outcome("FAILED", None, error=error))
    lines = capsys.readouterr().out.splitlines()
    assert "\n".join(lines).count(error) == 1 and lines[6].split() == [
        "0/7",
        "lr=6",
        "FAILED",
        "the",
        "same",
        "error",
        "again",
    ]


# --- pictures --------------------------------------------------------------------------------------------------
# --- the whole -------------------------------------------------------------------------------------------------
def test_the_sweeps_run_gets_files_and_tags_and_the_pictures_when_it_is_over(sweep: Sweep) -> None:
    for number in range(6):
        sweep.child(number, {"optimizer.lr": 10.0 ** -(number // 2), "seed": number % 2}, {"val/loss": number / 7})
    failed = sweep.child(6, {"optimizer.lr": 1.0, "seed": 9}, {}, "FAILED")
    folder = sweep.summarise(final=False)
    assert {file.name for file in folder.iterdir()} == {"children.csv", "children.html"}
    assert failed in (folder / "children.html").read_text()
    sweep.summarise()
    names = {file.name for file in folder.iterdir()}
    assert names == {"children.csv", "children.html", "parallel_coordinates.png", "importance.png"}
    tags = sweep.tags()
    assert (tags["sweep.finished"], tags["sweep.failed"], tags["sweep.pruned"]) == ("6", "1", "0")
    assert tags["sweep.best_run_id"] == sweep.children()[0].run_id
    assert tags["sweep.best_name"] == "lr=1, mean of 2 runs"
    assert json.loads(tags["sweep.best_params"]) == {"optimizer.lr": 1.0}
    listed = {file.path for file in sweep.client.list_artifacts(sweep.run_id, "sweep")}
    assert listed == {f"sweep/{name}" for name in names}, "MLflow sees them"


def test_several_objectives_give_a_front_as_picture_and_tag(store: Any) -> None:
    sweep = Sweep(store, ["model.width"], BOTH)
    for number in range(5):
        sweep.child(number, {"model.width": number}, {"val/accuracy": number / 5, "model/size_bytes": 10.0 * number})
    names = {file.name for file in sweep.summarise(BOTH).iterdir()}
    assert {"pareto.png", "parallel_coordinates.png", "parallel_coordinates_model_size_bytes.png"} <= names
    assert len(json.loads(sweep.tags()["sweep.pareto_run_ids"])) == 5
    assert "sweep.best_run_id" not in sweep.tags()
    assert "Pareto front of val/accuracy, model/size" in sweep.tags()["mlflow.note.content"]


def test_a_sweep_without_a_child_has_a_summary_too(sweep: Sweep) -> None:
    assert (sweep.summarise() / "children.html").exists()
    assert sweep.tags()["sweep.finished"] == "0"


def test_a_picture_that_fails_and_a_full_disk_are_warned_of_and_end_nothing(
    sweep: Sweep, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    sweep.child(0, {"seed": 0}, {"val/loss": 1.0})
    monkeypatch.setattr("lightning_modules.sweep.plots._study", lambda *_: 1 / 0)
    sweep.summarise()
    assert "parallel_coordinates.png could not be drawn: ZeroDivisionError" in caplog.text
    assert sweep.tags()["sweep.finished"] == "1"
    folder = sweep.summarise(final=False)
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()
    folder.write_text("in the way")
    assert len(write_summary(sweep.store, sweep.run_id, LOSS, RESUME)) == 1
    assert "the summary of sweep tuning could not be written" in caplog.text


@pytest.fixture
def server(store: Any, tmp_path: Path) -> Iterator[str]:
    """The URL of a real server on the test's store, that keeps the artifacts itself."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = ["-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    words += ["--backend-store-uri", store.uri, "--artifacts-destination", str(tmp_path / "kept")]
    process = subprocess.Popen([sys.executable, *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(240):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.5)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(30)


@pytest.mark.slow
def test_a_sweep_on_a_server_gets_the_same_summary(server: str) -> None:
    sweep = Sweep(open_store(server), ["seed"], LOSS)
    for number in range(3):
        sweep.child(number, {"seed": number}, {"val/loss": [float(number), math.nan, number + 0.5]})
    write_summary(sweep.store, sweep.run_id, LOSS, RESUME, final=True)
    assert [child.values["val/loss"] for child in sweep.children()] == [0, 1, 2]
    assert sweep.client.get_run(sweep.run_id).info.artifact_uri.startswith("mlflow-artifacts:")
    listed = {file.path for file in sweep.client.list_artifacts(sweep.run_id, "sweep")}
    assert listed == {"sweep/children.csv", "sweep/children.html", "sweep/parallel_coordinates.png"}
    assert sweep.tags()["sweep.best_name"] == "mean of 3 runs"
