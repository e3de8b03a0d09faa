"""Local runs in another store: all of them, once."""

import math
import shutil
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

from lightning_modules.config.errors import UserError
from lightning_modules.store import run_copier
from lightning_modules.store.sync import sync
from lightning_modules.tracking.resume import best_checkpoint
from lightning_modules.tracking.store import Store, open_store
from lightning_modules.tracking.tags import SYNCED_FROM_TAG


@pytest.fixture
def other(tmp_path: Path, empty_database: Path) -> Store:
    """Another store, for which no server is needed."""
    (tmp_path / "other").mkdir()
    for file in empty_database.parent.glob("mlflow.db*"):
        shutil.copy(file, tmp_path / "other" / file.name)
    return open_store(f"sqlite:///{tmp_path}/other/mlflow.db")


def twins(store: Store) -> dict[str, Any]:
    runs = list(store.search_runs())
    assert len({run.data.tags[SYNCED_FROM_TAG] for run in runs}) == len(runs), "a run was made twice"
    return {run.data.tags[SYNCED_FROM_TAG]: run for run in runs}


def points(store: Store, run_id: str) -> set[tuple[str, float, int, int]]:
    names = store.client.get_run(run_id).data.metrics
    history = [point for name in names for point in store.client.get_metric_history(run_id, name)]
    found = [(p.key, p.value if not math.isnan(p.value) else -42.0, p.timestamp, p.step) for p in history]
    assert len(set(found)) == len(found)
    return set(found)


def content(store: Store, run_id: str, hide: Callable[[str], str]) -> dict[str, Any]:
    """All that a run holds, but its own id; `hide` removes ids from texts."""
    run, client = store.client.get_run(run_id), store.client
    models = client.search_logged_models([run.info.experiment_id], f"source_run_id = '{run_id}'")
    own = ("touchstone.synced_from", "touchstone.synced_state")
    return {
        "experiment": client.get_experiment(run.info.experiment_id).name,
        "info": (run.info.run_name, run.info.status, run.info.start_time, run.info.end_time),
        "tags": {key: hide(value) for key, value in run.data.tags.items() if key not in own},
        "params": run.data.params,
        "points": points(store, run_id),
        "datasets": [
            (d.dataset.to_dictionary(), [(t.key, t.value) for t in d.tags]) for d in run.inputs.dataset_inputs
        ],
        "outputs": [output.step for output in run.outputs.model_outputs],
        "files": sorted(_files(client, run_id)),
        "models": [
            (m.name, str(m.status), m.model_type, m.params, {(p.key, p.value, p.step) for p in m.metrics or []})
            for m in models
        ],
    }


def _files(client: Any, run_id: str, path: str | None = None) -> list[tuple[str, int]]:
    found: list[tuple[str, int]] = []
    for info in client.list_artifacts(run_id, path):
        found += _files(client, run_id, info.path) if info.is_dir else [(info.path, info.file_size)]
    return found


def hide(*ids: str) -> Callable[[str], str]:
    def hidden(text: str) -> str:
        for name in ids:
            text = text.replace(name, "…")
        return text

    return hidden


def test_a_trained_run_is_the_same_in_the_other_store_and_is_there_once(
    recorded_run: Any,
    store: Store,
    other: Store,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run_id = recorded_run.info.run_id
    model_id = store.client.get_run(run_id).data.tags["touchstone.model_id"]
    store.client.log_metric(run_id, "odd", math.nan, 1234, 3)
    store.client.log_metric(run_id, "odd", math.inf, 1234, 4)
    sync(to_uri=other.uri)
    twin = twins(other)[run_id]
    twin_model = twin.data.tags["touchstone.model_id"]
    assert twin_model != model_id and other.client.get_logged_model(twin_model).source_run_id == twin.info.run_id
    there = content(other, twin.info.run_id, hide(twin.info.run_id, twin_model))
    assert there == content(store, run_id, hide(run_id, model_id))
    sync(to_uri=other.uri)
    assert "already up to date" in capsys.readouterr().out
    assert content(other, twin.info.run_id, hide(twin.info.run_id, twin_model)) == there
    assert twin_model in (best_checkpoint(other, twin).parent / "MLmodel").read_text()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", other.uri)
    from lightning_modules.config.command_line import compose_run
    from lightning_modules.run.run import run as run_config

    run_config(compose_run([f"resume={twin.info.run_id}", "trainer.max_epochs=3"]))  # the twin is a run as any other
    assert {p.step for p in other.client.get_metric_history(twin.info.run_id, "val/loss")} > {
        p.step for p in store.client.get_metric_history(run_id, "val/loss")
    }


def sweep(store: Store) -> tuple[str, list[str]]:
    """A sweep of two runs whose parent names its best run, and an older run that was linked."""
    client, space = store.client, store.experiment("sweep")
    older = client.create_run(space, run_name="older").info.run_id
    client.set_terminated(older)
    parent = client.create_run(
        space, run_name="grid", tags={"touchstone.kind": "sweep", "sweep.name": "grid"}
    ).info.run_id
    children = [
        client.create_run(
            space, start_time=1000 + i, tags={"mlflow.parentRunId": parent, "sweep.trial": str(i)}
        ).info.run_id
        for i in range(2)
    ]
    for i, child in enumerate(children):
        client.log_metric(child, "val/loss", i)
        client.set_terminated(child, "FINISHED" if i else "KILLED")
    client.set_tag(parent, "sweep.best", children[1])
    client.set_tag(parent, "sweep.linked", f'{{"7": "{older}"}}')
    return parent, [older, *children]


def test_a_sweep_brings_its_runs_along_and_all_links_lead_to_runs_of_the_other_store(
    store: Store, other: Store
) -> None:
    parent, (older, first, second) = sweep(store)
    alone = store.client.create_run(store.experiment("sweep")).info.run_id
    sync(to_uri=other.uri, runs=[older])
    sync(to_uri=other.uri, runs=[parent[:8]])
    found = twins(other)
    assert set(found) == {parent, older, first, second} and alone not in found
    tags = found[parent].data.tags
    assert tags["sweep.best"] == found[second].info.run_id
    assert tags["sweep.linked"] == f'{{"7": "{found[older].info.run_id}"}}'
    assert {found[c].data.tags["mlflow.parentRunId"] for c in (first, second)} == {found[parent].info.run_id}
    assert [found[c].info.status for c in (first, second)] == ["KILLED", "FINISHED"]
    sync(to_uri=other.uri, experiment="sweep")
    assert set(twins(other)) == {parent, older, first, second, alone}


@pytest.mark.parametrize(
    "step", [pytest.param(n, marks=() if n in (0, 5, 10) else pytest.mark.slow) for n in range(12)]
)
def test_a_sync_that_was_cut_off_anywhere_goes_on(store: Store, other: Store, step: int) -> None:
    class Cut(Exception):  # noqa: N818
        pass

    parent, runs = sweep(store)
    store.client.create_logged_model(store.client.get_run(runs[1]).info.experiment_id, source_run_id=runs[1])
    calls = iter(range(1000))
    cut = run_copier.RunCopier(store, other)

    class Client:
        """The client of the other store, until it breaks."""

        def __getattr__(self, name: str) -> Any:
            if name.startswith(("create", "log", "set", "update", "finalize")) and next(calls) == step:
                raise Cut
            return getattr(other.client, name)

    cut._to = Client()  # type: ignore[assignment]
    with pytest.raises(Cut):
        chosen = [store.client.get_run(run_id) for run_id in (parent, *runs)]
        for run, twin in [(run, cut.open(run)) for run in chosen]:
            cut.fill(run, twin)
    sync(to_uri=other.uri)
    found = twins(other)
    assert set(found) == {parent, *runs}
    for run_id, twin in found.items():
        assert points(other, twin.info.run_id) == points(store, run_id)
        assert twin.info.status == store.client.get_run(run_id).info.status
    assert len(other.client.search_logged_models([found[parent].info.experiment_id])) == 1


def test_a_run_that_has_changed_is_brought_up_to_date_and_one_deleted_there_is_left(
    store: Store, other: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    client = store.client
    run_id = client.create_run(store.experiment("a")).info.run_id
    gone = client.create_run(store.experiment("a")).info.run_id
    client.log_metric(run_id, "loss", 1.0, 1, 0)
    sync(to_uri=other.uri)
    assert twins(other)[run_id].info.status == "RUNNING"
    client.log_metric(run_id, "loss", 2.0, 2, 1)
    client.set_terminated(run_id)
    other.client.delete_run(twins(other)[gone].info.run_id)
    sync(to_uri=other.uri)
    twin = twins(other)[run_id]
    assert points(other, twin.info.run_id) == {("loss", 1.0, 1, 0), ("loss", 2.0, 2, 1)}
    assert twin.info.status == "FINISHED" and "deleted on the server" in capsys.readouterr().out


def test_a_twin_that_a_lost_answer_doubled_is_one_again(store: Store, other: Store) -> None:
    run_id = store.client.create_run(store.experiment("a")).info.run_id
    for _ in range(2):
        other.client.create_run(other.experiment("a"), tags={SYNCED_FROM_TAG: run_id})
    sync(to_uri=other.uri)
    assert set(twins(other)) == {run_id}


def test_mistakes_are_told(
    store: Store, other: Store, tmp_path: Path, command: Callable[..., CompletedProcess[str]]
) -> None:
    with pytest.raises(UserError, match="would be synced to itself"):
        sync(to_uri=store.uri)
    with pytest.raises(UserError, match="say where the runs go: to="):
        sync(experiment="sweep")
    with pytest.raises(UserError, match="experiment=swep: there is none of this name; did you mean 'sweep'"):
        sweep(store)
        sync(to_uri=other.uri, experiment="swep")
    with pytest.raises(UserError, match="no run 'nobody'"):
        sync(to_uri=other.uri, runs=["nobody"])
    with pytest.raises(UserError, match=r"127\.0\.0\.1:9 is not responding"):
        sync(to_uri="http://127.0.0.1:9")
    with pytest.raises(UserError, match="pushes from a SQLite file"):
        sync(source_uri="databricks", to_uri=other.uri)
    damaged = tmp_path / "damaged.db"
    damaged.write_text("no database" * 100)
    said = command("store.py", "sync", f"tracking.uri=sqlite:///{damaged}", f"to={other.uri}")
    assert said.returncode == 1 and "is damaged" in said.stderr and "Traceback" not in said.stderr
    said = command("store.py", "sync")
    assert said.returncode == 0 and "nothing to deliver" in said.stdout
