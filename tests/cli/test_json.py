"""``--json``: every verb prints one object of the documented schema on stdout, and exits as without it."""

import json
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

from lightning_modules.cli.main import VERBS, main
from lightning_modules.tracking.store import Store

SCHEMA = json.loads((Path(__file__).parents[2] / "docs" / "json.schema.json").read_text())
Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(store: Store, tmp_path: Path) -> Call:
    """Run ``touchstone WORDS`` in a fork of this process; return its exit code, stdout and stderr."""

    def launch(*words: str) -> tuple[int, str, str]:
        files = [tmp_path / "stdout", tmp_path / "stderr"]
        pid = os.fork()
        if pid == 0:
            for number, file in enumerate(files, 1):
                os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
            _exit_with(words)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        return code, *(file.read_text() for file in files)

    return launch


def _exit_with(words: tuple[str, ...]) -> None:
    sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1, closefd=False) for number in (1, 2))
    sys.argv = ["touchstone", *words]
    code: Any = 1
    try:
        main()
        code = 0
    except SystemExit as end:
        code = end.code or 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def read(printed: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(printed)
    assert printed.count("\n") == 1
    jsonschema.validate(document, SCHEMA)
    return document


@pytest.mark.parametrize("verb", VERBS)
def test_a_mistake_is_an_object_with_the_message(verb: str, call: Call) -> None:
    code, out, err = call(verb, "--no-such-flag", "--json")
    document = read(out)
    assert (document["verb"], document["ok"], document["result"]) == (verb, False, None)
    assert document["error"] and ("--no-such-flag" in document["error"] or verb == "train")  # that is argparse's
    plain, _, message = call(verb, "--no-such-flag")
    assert code == plain and "--no-such-flag" in message and message in err
    assert "Traceback" not in err


def add_run(store: Store, name: str, accuracy: float, **params: str) -> str:
    run_id: str = store.client.create_run(store.experiment("here"), run_name=name).info.run_id
    store.client.log_metric(run_id, "test/accuracy", accuracy)
    for key, value in params.items():
        store.client.log_param(run_id, key, value)
    store.client.set_terminated(run_id)
    return run_id


def test_results_of_verbs_that_read_the_store(store: Store, call: Call, tmp_path: Path) -> None:
    first, second = (add_run(store, name, value, model=name) for name, value in (("a", 0.5), ("b", float("nan"))))
    code, out, err = call("compare", "a", "b", "by=model", "--json", "log=false")
    found = read(out)["result"]
    assert code == 0 and "higher is better" in err
    assert {tuple(row["values"]): (row["mean"], row["runs"]) for row in found["rows"]} == {
        ("a",): (0.5, [first]), ("b",): (None, [second]),
    }  # fmt: skip
    found = read(call("--json", "compare", f"diff={first},{second}")[1])["result"]
    assert found["metrics"] == {"test/accuracy": [0.5, None]}  # JSON has no NaN
    found = read(call("store", "delete", "a", "--json")[1])["result"]
    assert found == [{"run_id": first, "name": "a", "status": "FINISHED"}]
    assert read(call("new", str(tmp_path / "mylab"), "--json")[1])["result"] == {"folder": str(tmp_path / "mylab")}
    document = read(call("stoer", "--json")[1])
    assert "did you mean 'store'" in document["error"]


@pytest.mark.slow
def test_results_of_verbs_that_compute(store: Store, call: Call, command: Callable[..., Any], tmp_path: Path) -> None:
    quick = ("data.per_class=20", "trainer.max_epochs=1", "model=linear", "tracking.pictures=false", "cpu_threads=1")
    code, out, err = call("train", *quick, "--json")
    found = read(out)["result"]
    assert code == 0 and found["metrics"]["test/accuracy"] > 0 and "test/accuracy" in err
    run_id = found["run_id"]
    assert store.client.get_run(run_id).info.status == "FINISHED"
    sweep = command(
        "train.py", "-m", "--json", *quick, "seed=1,2", "sweep.jobs=1"
    )  # not from a fork: it has a fork server
    trials = read(sweep.stdout)["result"]["trials"]
    assert [trial["params"]["seed"] for trial in trials] == [1, 2]
    assert {store.client.get_run(trial["run_id"]).info.status for trial in trials} == {"FINISHED"}
    assert read(call("train", *quick, "model.nothing=1", "--json")[1])["error"].startswith("A mistake")
    again = read(call("rerun", run_id, "here=true", "--json")[1])
    assert again["ok"] and store.client.get_run(again["result"]["run_id"]).info.run_name.endswith("-rerun")
    copies = read(call("augment", f"out={tmp_path}/c", "augmentation=image_basic", *quick[:1], "--json")[1])["result"]
    assert copies["copies"] == 1 and Path(copies["folder"]).is_dir()


@pytest.mark.slow
def test_results_of_verbs_that_use_a_run(
    recorded_run: Any, store: Store, call: Call, command: Callable[..., Any], tmp_path: Path
) -> None:
    run_id = recorded_run.info.run_id
    np.save(tmp_path / "x.npy", np.zeros((3, 1, 8, 8), np.uint8))
    found = read(call("predict", run_id, f"input={tmp_path}/x.npy", "--json")[1])["result"]
    assert found["samples"] == 3 and {row["class"] for row in found["predictions"]} <= set("0123456789")
    assert read(call("export", run_id, "format=onnx", "--json")[1])["result"]["run_id"] == run_id
    found = read(call("promote", run_id, "as=champion", "--json")[1])["result"]
    assert found == {"name": "digits-mlp", "alias": "champion", "version": "1", "run_id": run_id}
    refused = read(call("promote", run_id, "as=champion", "only_if=test/loss < 0", "--json")[1])
    assert not refused["ok"] and refused["result"] == found | {"version": None}
    judged = read(call("reproduce", "mnist1d/linear", "judge=true", "--json")[1])["result"]
    assert [row["claim"] for row in judged] == ["mnist1d/linear"]
    quick = ("trials=1", "max_drop=1.0", "compression.stages.prune.epochs=1", "sweep.jobs=1", "cpu_threads=1")
    attempts = read(command("compress.py", run_id, "size_ratio=2", *quick, "--json").stdout)["result"]["trials"]
    assert [attempt["status"] for attempt in attempts] == ["FINISHED"]


@pytest.mark.slow
def test_results_of_data(store: Store, call: Call, tmp_path: Path) -> None:
    for verb, key in (("inspect", "duplicates"), ("clean", "excluded"), ("split", "parts")):
        document = read(call("data", verb, "data=digits", f"out={tmp_path}/{verb}.json", "tracking=none", "--json")[1])
        assert document["ok"] == (verb != "split"), document["error"]  # near duplicates in two parts
        assert key in document["result"]
