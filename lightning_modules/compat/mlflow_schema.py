"""MLflow's database schema, for plain SQL on a SQLite store, without MLflow and its locks; lists are given as JSON."""

import functools
import importlib.util
import re
from pathlib import Path

_IN_LIST = "IN (SELECT value FROM json_each(?))"  # a list of any length as one argument
_ACTIVE_EXPERIMENTS = "experiments WHERE lifecycle_stage = 'active'"
_ACTIVE_RUNS = f"lifecycle_stage = 'active' AND experiment_id IN (SELECT experiment_id FROM {_ACTIVE_EXPERIMENTS})"
STORE_TABLES = {"alembic_version", "runs"}  # by which a database of MLflow is known
WRITE_NOTHING = "UPDATE alembic_version SET version_num = version_num"
REVISION_QUERY = "SELECT version_num FROM alembic_version"
ARTIFACTS_QUERY = "SELECT artifact_uri FROM runs ORDER BY start_time DESC LIMIT 20"
ANY_RUN_QUERY = "SELECT 1 FROM runs LIMIT 1"
EXPERIMENT_NAMES_QUERY = f"SELECT name, experiment_id FROM {_ACTIVE_EXPERIMENTS}"
NEWEST_RUNS_QUERY = f"SELECT name, run_uuid FROM runs WHERE {_ACTIVE_RUNS} ORDER BY start_time DESC LIMIT 100"
TAG_VALUES_QUERY = "SELECT DISTINCT value FROM tags WHERE key = '{}' ORDER BY value"
RUNS_QUERY = (  # {}: a condition of those below
    f"SELECT run_uuid, name, status, experiment_id FROM runs WHERE {_ACTIVE_RUNS} AND {{}} ORDER BY start_time, run_uuid"
)
WITH_ID, WITH_ID_LIKE, WITH_IDS = "run_uuid = ?", "run_uuid GLOB ?", f"run_uuid {_IN_LIST}"
WITH_NAME_START = "substr(name, 1, length(?)) = ?"
IN_EXPERIMENT = "experiment_id = ?"
WITH_TAG = "run_uuid IN (SELECT run_uuid FROM tags WHERE key = ? AND value = ?)"
WITH_NAME_OR_TAGS = f"(name = ? OR {WITH_TAG} AND {WITH_TAG})"
PARAMS_QUERY = f"SELECT run_uuid, key, value FROM params WHERE key {_IN_LIST} AND run_uuid {_IN_LIST}"
TAGS_QUERY = (  # those of a list, and those between two names
    f"SELECT run_uuid, key, value FROM tags WHERE (key {_IN_LIST} OR key BETWEEN ? AND ?) AND run_uuid {_IN_LIST}"
)
PARAM_NAMES_QUERY = f"SELECT key FROM params WHERE run_uuid {_IN_LIST} GROUP BY key"
VARYING = "HAVING MIN(value) <> MAX(value) OR COUNT(*) < ?"  # of the names of params
METRIC_NAMES_QUERY = f"SELECT DISTINCT key FROM latest_metrics WHERE run_uuid {_IN_LIST}"
METRIC_QUERY = f"SELECT run_uuid, value, is_nan FROM latest_metrics WHERE key = ? AND run_uuid {_IN_LIST}"
EXTREMES_QUERY = (  # {}: metrics or latest_metrics
    f"SELECT run_uuid, key, MIN(value), MAX(value) FROM {{}} WHERE run_uuid {_IN_LIST} AND key {_IN_LIST} "
    "AND NOT is_nan AND ABS(value) < ? GROUP BY run_uuid, key"
)
URI_COLUMNS = (  # with artifact URIs: table, column, condition
    ("experiments", "artifact_location", ""),
    ("runs", "artifact_uri", ""),
    ("logged_models", "artifact_location", ""),
    ("model_versions", "source", ""),
    ("model_versions", "storage_location", ""),
    ("workspaces", "default_artifact_root", ""),
    ("trace_tags", "value", "AND key = 'mlflow.artifactLocation'"),
)


@functools.cache
def schema_revisions() -> dict[str, bool]:
    """Revision of the schema -> whether it is the newest, of those that the installed MLflow knows (not imported for this)."""
    spec = importlib.util.find_spec("mlflow")
    folder = Path(*(spec.submodule_search_locations or () if spec else ()), "store", "db_migrations", "versions")
    text = "".join(path.read_text(encoding="utf-8") for path in folder.glob("*.py"))
    replaced = set(re.findall(r"^down_revision = .(\w+)", text, re.MULTILINE))
    return {revision: revision not in replaced for revision in re.findall(r"^revision = .(\w+)", text, re.MULTILINE)}
