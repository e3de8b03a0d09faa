"""Find the runs, models and experiments that are marked as deleted in a store's database."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning_modules.compat import mlflow
from lightning_modules.tracking.artifacts import local_folder
from lightning_modules.tracking.store import Store
from lightning_modules.tracking.tags import SWEEP_NAME_TAG


@dataclass
class GarbageInventory:
    """Ids of deleted runs, models and experiments with their artifact URIs, and the folders that must stay.

    Attributes:
        kept: folders of active runs, models and registered versions; occupied: folders of active experiments.
        known: ids of all runs and models, deleted or not; sweeps: names of deleted sweeps.
    """

    runs: dict[str, str]
    models: dict[str, str]
    experiments: dict[str, str]
    sweeps: list[str]
    kept: list[Path]
    occupied: list[Path]
    known: set[str]
    database: Any

    def delete_rows(self, kind: str, name: str) -> None:
        """Delete the row and its dependent rows; an experiment only if it is empty."""
        from sqlalchemy import delete, or_, select

        with self.database.ManagedSessionMaker(read_only=False) as session:
            edge: Any = mlflow.tables().SqlInput
            edges = select(edge.input_uuid).where(or_(edge.source_id == name, edge.destination_id == name))
            session.execute(
                delete(mlflow.tables().SqlInputTag).where(mlflow.tables().SqlInputTag.input_uuid.in_(edges))
            )
            session.execute(delete(edge).where(or_(edge.source_id == name, edge.destination_id == name)))
        if kind != "experiment" or not self._is_inhabited(int(name)):
            mlflow.hard_delete(self.database, kind, name)

    def _is_inhabited(self, experiment: int) -> bool:
        from sqlalchemy import select

        with self.database.ManagedSessionMaker(read_only=True) as session:
            return any(
                session.execute(select(table).where(table.experiment_id == experiment).limit(1)).first()
                for table in (mlflow.tables().SqlRun, mlflow.tables().SqlLoggedModel)
            )


def find_garbage(store: Store) -> GarbageInventory:
    """Search a store that is a database."""
    database: Any = mlflow.backend_store(store.client)
    with database.ManagedSessionMaker(read_only=True) as session:
        spaces, runs, models = _rows(session)
        gone = {space.experiment_id for space in spaces if space.lifecycle_stage == "deleted"}
        dead = {r.run_uuid: r for r in runs if r.lifecycle_stage == "deleted" or r.experiment_id in gone}
        for run_id in [
            r.run_uuid for r in dead.values() if r.status == "RUNNING" and _is_training(session, r.run_uuid)
        ]:
            print(f"left run {run_id}: it is deleted, but still training")
            del dead[run_id]
        sources = _registered_model_folders(session)
        lost = {
            m.model_id: m
            for m in models
            if m.lifecycle_stage == "deleted" or m.experiment_id in gone or m.source_run_id in dead
        }
        for model_id in [m for m in lost if any(m in source for source in sources)]:
            print(f"left model {model_id}: it is registered as a model version")
            del lost[model_id]
        sweeps = _deleted_sweeps(session, dead)
    kept = [r.artifact_uri for r in runs if r.run_uuid not in dead]
    kept += [m.artifact_location for m in models if m.model_id not in lost] + sources
    return GarbageInventory(
        runs={run_id: r.artifact_uri for run_id, r in dead.items()},
        models={model_id: m.artifact_location for model_id, m in lost.items()},
        experiments={str(s.experiment_id): s.artifact_location for s in spaces if s.experiment_id in gone},
        sweeps=sweeps,
        kept=_local_folders(kept),
        occupied=_local_folders(s.artifact_location for s in spaces if s.experiment_id not in gone),
        known={r.run_uuid for r in runs} | {m.model_id for m in models},
        database=database,
    )


def _rows(session: Any) -> tuple[Any, Any, Any]:
    """All experiments, runs and models with their artifact URIs and stages."""
    from sqlalchemy import select

    space: Any = mlflow.tables().SqlExperiment
    run: Any = mlflow.tables().SqlRun
    model: Any = mlflow.tables().SqlLoggedModel
    queries = (
        select(space.experiment_id, space.artifact_location, space.lifecycle_stage),
        select(run.run_uuid, run.artifact_uri, run.lifecycle_stage, run.experiment_id, run.status),
        select(
            model.model_id, model.artifact_location, model.lifecycle_stage, model.experiment_id, model.source_run_id
        ),
    )
    spaces, runs, models = (session.execute(query).all() for query in queries)
    return spaces, runs, models


def _local_folders(uris: Iterable[str | None]) -> list[Path]:
    return [folder for uri in uris if uri and (folder := local_folder(uri)) is not None]


def _registered_model_folders(session: Any) -> list[str]:
    """Artifact locations of registered model versions."""
    from sqlalchemy import select

    version = mlflow.model_version_table()
    rows = session.execute(select(version.source, version.storage_location, version.current_stage)).all()
    return [text for *texts, stage in rows if stage != "Deleted_Internal" for text in texts if text]


def _is_training(session: Any, run_id: str) -> bool:
    from sqlalchemy import select

    from lightning_modules.tracking.liveness import is_alive

    tag = mlflow.tables().SqlTag
    rows = session.execute(select(tag.key, tag.value).where(tag.run_uuid == run_id)).all()
    return is_alive(dict(rows))


def _deleted_sweeps(session: Any, dead: Iterable[str]) -> list[str]:
    """Names of sweeps without a remaining parent run."""
    from sqlalchemy import select

    tag = mlflow.tables().SqlTag
    rows = session.execute(select(tag.run_uuid, tag.value).where(tag.key == SWEEP_NAME_TAG)).all()
    alive = {name for run_id, name in rows if run_id not in dead}
    return sorted({name for run_id, name in rows if run_id in dead} - alive)
