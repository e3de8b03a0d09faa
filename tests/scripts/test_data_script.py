"""`scripts/data.py`: what it writes and logs, and one message for each mistake."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from lightning_modules.cli.data import main
from lightning_modules.config.errors import UserError
from lightning_modules.quality import commands
from lightning_modules.quality.commands import compose_quality

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def newest(store: Any) -> Any:
    experiment = store.client.get_experiment_by_name("data").experiment_id
    return store.client.search_runs([experiment], order_by=["attributes.start_time DESC"], max_results=1)[0]


def test_inspect_prints_writes_and_logs_a_run_of_its_own(store: Any, tmp_path: Path, capsys: Any) -> None:
    commands.inspect_data(compose_quality(["data=digits", f"out={tmp_path}/found"]))
    said = capsys.readouterr().out
    assert "near pairs" in said and "train 1585, test 1648" in said and "logged to run" in said
    report = json.loads((tmp_path / "found" / "report.json").read_text())
    assert report["duplicates"]["leaks"] == {"train+test": 1} and report["balance"]["train"]["samples"] == 1258
    pictures = {file.stem for file in (tmp_path / "found").glob("*.png")}
    assert {"class_balance", "nearest_neighbours", "duplicates", "leaks", "label_errors", "drift"} <= pictures
    assert all(min(Image.open(file).size) > 150 for file in (tmp_path / "found").glob("*.png"))
    run = newest(store)
    assert run.info.status == "FINISHED" and run.data.tags["kind"] == "data"
    assert run.data.metrics["near_pairs"] == 1 and run.data.metrics["leaks"] == 1
    assert run.data.params["content"] == report["content"] and run.data.params["data._target_"].endswith("Digits")
    assert {file.path for file in store.client.list_artifacts(run.info.run_id)} >= {"report.json", "leaks.png"}


def test_clean_writes_a_list_that_a_run_takes(store: Any, tmp_path: Path, capsys: Any) -> None:
    commands.write_exclusions(compose_quality(["data=digits", f"out={tmp_path}/list.json"]))
    assert "data.exclude=" in capsys.readouterr().out
    record = json.loads((tmp_path / "list.json").read_text())
    assert [(entry["index"], entry["part"]) for entry in record["excluded"]] == [(1585, "pool")]
    assert newest(store).data.metrics == {"excluded": 1, "excluded/leak": 1}
    with pytest.raises(UserError, match="created for different data"):
        commands.write_split(
            compose_quality(["data=tabular", f"data.exclude={tmp_path}/list.json", f"out={tmp_path}/s.json"])
        )
    commands.write_split(
        compose_quality(["data=digits", f"data.exclude={tmp_path}/list.json", f"out={tmp_path}/s.json"])
    )
    split = json.loads((tmp_path / "s.json").read_text())
    assert 1585 not in split["parts"]["train"]["indices"] and split["unused"] == 1


def test_a_split_with_a_leak_ends_with_one_and_without_a_store_nothing_is_logged(tmp_path: Path, capsys: Any) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["split", "data=digits", "tracking=none", f"out={tmp_path}/s.json"])
    assert ended.value.code == 1
    said = capsys.readouterr().out
    assert "1 groups in train+test" in said and "logged" not in said


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["data=digitz"], "did you mean 'digits'"),
        (["clean.duplicate=near"], "did you mean 'duplicates'"),
        (["near=0.9", "labels.fold=3", "data.sed=1"], "2 mistakes"),
        (["data@other=minst"], "did you mean 'mnist'"),
        (["near"], "KEY=VALUE"),
    ],
)
def test_a_misspelt_override_names_the_nearest(overrides: list[str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        compose_quality(overrides)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("near=2", r"near=2: expected a value in \(0, 1\]"),
        ("labels.folds=1", "labels.folds=1: expected 2 or more"),
        ("labels.classifier=knm", "did you mean 'knn'"),
        ("clean.leaks=nearly", "did you mean 'near'"),
        ("clean.label_errors=-1", "label_errors=-1: expected 0 or more"),
        ("drift=[train]", "expected two parts"),
        ("drift=[train,tset]", "did you mean 'test'"),
        ("clean.conflicts=maybe", "expected true or false"),
        ("data=null", "unknown option of data"),
        ("~data", "expected a data set"),
    ],
)
def test_a_senseless_value_is_one_message(override: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        commands.write_exclusions(compose_quality([override, "tracking=none"]))


def test_a_set_that_is_not_there_says_where_it_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not there"):
        commands.inspect_data(compose_quality(["data=cifar10", f"data.root={tmp_path}/not there", "tracking=none"]))


def test_a_place_that_cannot_be_written_is_one_message(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        commands.write_exclusions(compose_quality(["data=tabular", "tracking=none", f"out={tmp_path}/file/list.json"]))


def test_the_command_answers_with_a_message_and_an_exit_code(command: Callable[..., Any]) -> None:
    said = command("data.py", "clena", "data=digits")
    assert said.returncode == 1 and "expected 'inspect', 'clean' or 'split'" in said.stderr
    said = command("data.py", "inspect", "data=digitz")
    assert said.returncode == 1 and "did you mean 'digits'" in said.stderr and "Traceback" not in said.stderr


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys, runpy; sys.argv = ['data.py', '--help']\n"
        "try: runpy.run_path('scripts/data.py', run_name='__main__')\n"
        "finally: print({'torch', 'mlflow', 'sklearn'} & set(sys.modules))"
    )
    said = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False, env=dict(os.environ)
    )
    assert "inspect" in said.stdout and said.stdout.strip().endswith("set()"), said.stderr
