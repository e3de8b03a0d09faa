"""``touchstone promote`` sets an alias in the registry, if the model is better than the one that has it."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from conftest import QUICK

from lightning_modules.cli.promote import main, register
from lightning_modules.config.command_line import compose_run
from lightning_modules.config.errors import UserError
from lightning_modules.run.run import run
from lightning_modules.run.serve import logged_model_id
from lightning_modules.tracking.store import Store, open_store


@pytest.fixture(scope="module")
def made(new_store: Callable[[], str]) -> Iterator[tuple[Store, dict[str, Any]]]:
    """A store with a better run, a worse one, and one on other data."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", new_store())
        for name, lr, split in (("good", "1e-2", 0), ("poor", "1e-5", 0), ("other", "1e-2", 1)):
            run(compose_run([*QUICK, f"name={name}", f"optimizer.lr={lr}", f"data.split_seed={split}"]))
        store = open_store()
        yield store, {one.info.run_name: one for one in store.search_runs()}


def model_of(store: Store, one: Any) -> Any:
    return store.client.get_logged_model(one.data.tags["touchstone.model_id"])


def alias(store: Store) -> str:
    return logged_model_id(store, "models:/digits-mlp@champion")


def test_a_model_has_the_name_of_data_and_network_with_params_metrics_and_a_description(made: Any) -> None:
    store, runs = made
    model = model_of(store, runs["good"])
    assert model.name == "digits-mlp"
    assert model.params["optimizer.lr"] == "0.01" and model.params["data.split_seed"] == "0" and len(model.params) < 20
    [accuracy] = [one for one in model.metrics if one.key == "test/accuracy"]
    fingerprint = runs["good"].data.tags["data.fingerprint"]
    assert (accuracy.dataset_name, accuracy.dataset_digest) == (runs["good"].data.tags["data.name"], fingerprint[:36])
    text = model.tags["mlflow.note.content"]
    assert "| test/accuracy |" in text and f"runs/{runs['good'].info.run_id}" in text


def test_promotion(made: Any, capsys: pytest.CaptureFixture[str]) -> None:
    store, runs = made
    good, poor = (model_of(store, runs[name]) for name in ("good", "poor"))
    condition = "only_if=test/accuracy > champion"
    main(["poor", "as=champion", condition])
    assert "has no champion yet" in capsys.readouterr().out and alias(store) == poor.model_id
    version = main(["good", "as=champion", condition])
    assert version == {"name": "digits-mlp", "alias": "champion", "version": "2", "run_id": good.source_run_id}
    assert "models:/digits-mlp@champion is version 2" in capsys.readouterr().out and alias(store) == good.model_id
    for refused in (("poor", condition), ("good", condition), ("good", "only_if=test/loss < 0")):
        with pytest.raises(SystemExit) as ended:
            main([refused[0], "as=champion", refused[1]])
        assert ended.value.code == 3 and alias(store) == good.model_id
        assert ended.value.result["version"] is None  # type: ignore[attr-defined]
        assert "not promoted: champion of digits-mlp is unchanged" in capsys.readouterr().out
    main(["good", "as=champion", "only_if=test/accuracy >= champion"])  # a tie
    main(["poor", "as=champion"])
    assert alias(store) == poor.model_id
    assert len(store.client.search_model_versions("name = 'digits-mlp'")) == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["good", "as=best", "only_if=test/loss > best"], "test/loss is better when lower: write test/loss < best"),
        (["good", "as=best", "only_if=test/acuracy > best"], "has no test/acuracy; did you mean 'test/accuracy'"),
        (["good", "as=best", "only_if=better"], "expected METRIC > ALIAS or METRIC > NUMBER"),
        (["good", "as=latest"], "as=latest: "),
        (["nobody", "as=best"], "no run 'nobody'"),
    ],
)
def test_mistakes(made: Any, words: list[str], message: str) -> None:
    with pytest.raises(UserError) as caught:
        main(words)
    assert message in str(caught.value)


def test_a_model_of_a_store_that_no_variable_names_is_registered(made: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    store, runs = made
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    model = model_of(store, runs["good"])
    assert register(store, model, "of its own") == "1"
    assert store.client.get_model_version("of its own", "1").source == f"models:/{model.model_id}"


def test_models_of_other_data_are_not_compared(made: Any) -> None:
    main(["good", "as=stable"])
    with pytest.raises(UserError, match="was tested on other data"):
        main(["other", "as=stable", "only_if=test/accuracy > stable"])
