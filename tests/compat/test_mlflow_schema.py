import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from lightning_modules.compat import mlflow_schema as schema

CONDITIONS = (
    schema.WITH_ID,
    schema.WITH_ID_LIKE,
    schema.WITH_IDS,
    schema.IN_EXPERIMENT,
    schema.WITH_TAG,
    schema.WITH_NAME_OR_TAGS,
)
QUERIES = (
    schema.WRITE_NOTHING, schema.ANY_RUN_QUERY, schema.EXPERIMENT_NAMES_QUERY, schema.NEWEST_RUNS_QUERY,
    schema.PARAM_NAMES_QUERY, f"{schema.PARAM_NAMES_QUERY} {schema.VARYING}", schema.METRIC_NAMES_QUERY, schema.METRIC_QUERY,
    *(schema.RUNS_QUERY.format(condition) for condition in CONDITIONS),
    schema.PARAMS_QUERY,
    schema.TAGS_QUERY,
    *(schema.EXTREMES_QUERY.format(table) for table in ("metrics", "latest_metrics")),
    *(f"SELECT {column} FROM {table} WHERE 1 {condition}" for table, column, condition in schema.URI_COLUMNS),
)  # fmt: skip


@pytest.mark.parametrize("query", QUERIES)
def test_the_schema_of_the_installed_mlflow_has_what_a_query_names(query: str, empty_database: Path) -> None:
    with closing(sqlite3.connect(f"{empty_database.as_uri()}?mode=ro", uri=True)) as database:
        assert {row[0] for row in database.execute("SELECT name FROM sqlite_master")} >= schema.STORE_TABLES
        database.execute(f"EXPLAIN {query}", [None] * query.count("?"))
