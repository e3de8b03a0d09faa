"""Files of recorded runs and models: local paths, downloaded from a server if necessary."""

from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

from lightning_modules.config.errors import UserError
from lightning_modules.tracking.outbox import work_folder
from lightning_modules.tracking.store import Store


def local_folder(uri: str) -> Path | None:
    """The local folder of an artifact URI, or None if it is remote."""
    if uri.startswith("file:"):
        return Path(unquote(urlparse(uri).path))
    return Path(uri) if uri.startswith("/") else None


def artifact_path(store: Store, run: Any, path: str) -> Path:
    """The local file of a run's artifact, downloaded if the store is a server. Raises UserError if it does not exist."""
    uri = run.info.artifact_uri
    folder = local_folder(uri)
    if folder is not None:
        if not (folder / path).exists():
            raise UserError(f"run {run.info.run_id} has no artifact {path} (looked for {folder / path})")
        return folder / path
    kept = work_folder(run.info.run_id) / "run" / path
    if kept.exists():  # the run or its server ended before the files were sent
        return kept
    from mlflow.exceptions import MlflowException

    try:
        return Path(store.client.download_artifacts(run.info.run_id, path))
    except (MlflowException, OSError) as error:
        raise UserError(f"run {run.info.run_id} has no artifact {path}: {error}") from error


def download_model(store: Store, model_id: str, folder: Path) -> None:
    """Copy the files of a LoggedModel, if any, from a server into `folder`."""
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    if store.client.list_logged_model_artifacts(model_id):
        location = store.client.get_logged_model(model_id).artifact_location
        get_artifact_repository(location, tracking_uri=store.uri).download_artifacts("", str(folder))
