"""``touchstone promote``: give the model of a run an alias in MLflow's registry."""

import math
import re
from typing import TYPE_CHECKING, Annotated

from lightning_modules.api.process import mlflow_on
from lightning_modules.cli.arguments import verb
from lightning_modules.cli.json_output import NotAsExpected
from lightning_modules.config.errors import UserError, first_line, suggest
from lightning_modules.config.metric_direction import higher_is_better

if TYPE_CHECKING:
    from mlflow.entities import LoggedModel

    from lightning_modules.tracking.store import Store

_CONDITION = re.compile(r"(?P<metric>\S+)\s*(?P<sign>[<>]=?)\s*(?P<other>[\w.+-]+)")


@verb(
    "RUN as=ALIAS [only_if=CONDITION]",
    ("3e782338 as=champion", '3e782338 as=champion only_if="test/accuracy > champion"'),
)
def main(
    target: Annotated[str, "id, its first 6 or more characters, or name of a run; or models:/…"],
    as_: Annotated[str, "alias in the registry: champion, staging …"],
    only_if: Annotated[
        str | None, 'condition, as in "test/accuracy > champion" or "test/loss <= 0.1"; exit status 3 if it is not met'
    ] = None,
) -> dict[str, str | None]:
    """Register the model of a run as the next version of DATA-MODEL and set an alias, which models:/DATA-MODEL@ALIAS
    reads. Without a champion, a condition that names it is met; > and < leave the alias with the former model on a tie."""
    from mlflow.exceptions import MlflowException

    from lightning_modules.run.serve import find_logged_model, logged_model_id
    from lightning_modules.tracking.store import open_store

    store = open_store()
    uri, _ = find_logged_model(store, target)
    model = store.client.get_logged_model(logged_model_id(store, uri))
    name = registered_name(store, model)
    try:
        if only_if is not None:
            met, reason = check_condition(store, model, name, only_if)
            print(reason)
            if not met:
                print(f"not promoted: {as_} of {name} is unchanged")
                raise NotAsExpected({"name": name, "alias": as_, "version": None, "run_id": model.source_run_id}, 3)
        version = register(store, model, name)
        store.client.set_registered_model_alias(name, as_, version)
    except MlflowException as error:
        raise UserError(f"as={as_}: {first_line(error)}") from error
    print(f"models:/{name}@{as_} is version {version}, of run {model.source_run_id}")
    return {"name": name, "alias": as_, "version": version, "run_id": model.source_run_id}


def registered_name(store: "Store", model: "LoggedModel") -> str:
    """``data-model``, as the logged model is named; those of earlier versions are all named "model"."""
    if model.name != "model":
        return str(model.name)
    params = store.client.get_run(model.source_run_id or "").data.params
    return f"{params.get('data', 'data')}-{params.get('model', 'model')}"


def check_condition(store: "Store", model: "LoggedModel", name: str, condition: str) -> tuple[bool, str]:
    """Whether the model meets the condition, and why. Raises UserError if that cannot be decided."""
    found = _CONDITION.fullmatch(condition.strip())
    if found is None:
        raise UserError(
            f'only_if={condition}: expected METRIC > ALIAS or METRIC > NUMBER, as in "test/accuracy > champion"'
        )
    metric, sign, other = found["metric"], found["sign"], found["other"]
    higher = higher_is_better(metric)
    if higher is not None and higher != (sign[0] == ">"):
        better, right = ("higher", ">") if higher else ("lower", "<")
        raise UserError(f"only_if={condition}: {metric} is better when {better}: write {metric} {right} {other}")
    own = _value(store, model, metric, condition)
    try:
        bound, whose = float(other), other
    except ValueError:
        champion = champion_of(store, name, other)
        if champion is None:
            return True, f"{metric} {own:.6g}: {name} has no {other} yet"
        _require_same_data(store, model, champion, condition)
        bound = _value(store, champion, metric, condition)
        whose = f"{bound:.6g} of {other} (run {champion.source_run_id})"
    met = {">": own > bound, ">=": own >= bound, "<": own < bound, "<=": own <= bound}[sign]
    return met, f"{metric} {own:.6g} is {'' if met else 'not '}{sign} {whose}"


def champion_of(store: "Store", name: str, alias: str) -> "LoggedModel | None":
    """The logged model that has the alias, or None."""
    from lightning_modules.run.serve import logged_model_id

    known = {one.name: one for one in store.client.search_registered_models(f"name = '{name}'")}
    if name not in known or alias not in known[name].aliases:
        return None
    return store.client.get_logged_model(logged_model_id(store, f"models:/{name}@{alias}"))


def _require_same_data(store: "Store", model: "LoggedModel", champion: "LoggedModel", condition: str) -> None:
    """Raise UserError if the two were tested on different data: their metrics cannot be compared."""
    from lightning_modules.tracking.tags import DATA_FINGERPRINT_TAG

    runs = [store.client.get_run(one.source_run_id or "") for one in (model, champion)]
    digests = [run.data.tags.get(DATA_FINGERPRINT_TAG, "") for run in runs]
    if digests[0] != digests[1]:
        raise UserError(
            f"only_if={condition}: run {runs[1].info.run_id} was tested on other data (fingerprint {digests[1][:12]}, "
            f"here {digests[0][:12]}); compare models of the same data and split, or omit only_if"
        )


def _value(store: "Store", model: "LoggedModel", metric: str, condition: str) -> float:
    """The metric of a logged model, else of its run. Raises UserError if it is missing or not finite."""
    from lightning_modules.tracking.tags import MODEL_ID_TAG

    run = store.client.get_run(model.source_run_id or "")
    values = dict(run.data.metrics) if run.data.tags.get(MODEL_ID_TAG) == model.model_id else {}
    for one in sorted(model.metrics or [], key=lambda one: (one.step, one.timestamp)):
        values[one.key] = one.value
    if metric not in values:
        own = [name for name in values if not name.startswith("system/")]
        raise UserError(
            f"only_if={condition}: {model.name} of run {run.info.run_id} has no {metric}; {suggest(metric, own)}"
        )
    if not math.isfinite(values[metric]):
        raise UserError(f"only_if={condition}: {metric} of run {run.info.run_id} is {values[metric]}")
    return values[metric]


def register(store: "Store", model: "LoggedModel", name: str) -> str:
    """The version of the registered model `name` that is this logged model; registered if necessary."""
    client, uri = store.client, f"models:/{model.model_id}"
    if not client.search_registered_models(f"name = '{name}'"):
        client.create_registered_model(name)
    for known in client.search_model_versions(f"name = '{name}'"):
        if known.source == uri:
            return str(known.version)
    text = model.tags.get("mlflow.note.content")
    with mlflow_on(store):  # MLflow looks for the model in its global store
        made = client.create_model_version(name, uri, model.source_run_id, description=text, model_id=model.model_id)
    return str(made.version)
