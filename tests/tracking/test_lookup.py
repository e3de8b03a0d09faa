"""A run is named by its id, its name, or the beginning of either where that is unique; names hold overrides."""

from collections.abc import Callable
from typing import Any

import pytest

from lightning_modules.cli import compare
from lightning_modules.cli import store as store_verb
from lightning_modules.cli.export import main as export
from lightning_modules.cli.predict import main as predict
from lightning_modules.cli.promote import main as promote
from lightning_modules.cli.rerun import main as rerun
from lightning_modules.comparison.compare import open_run_reader
from lightning_modules.comparison.run_reader import MlflowRunReader
from lightning_modules.config.errors import UserError
from lightning_modules.tracking.store import Store, find_run

NAMES = ("digits-mlp lr=1e-4 seed=1", "digits-mlp lr=1e-3 seed=1", "digits_mlp", "digitsXmlp 50%", "lr=0.01 seed=1")


@pytest.fixture
def ids(store: Store) -> dict[str, str]:
    found = {}
    for name in NAMES:
        run_id = store.client.create_run(store.experiment("here"), run_name=name).info.run_id
        store.client.log_param(run_id, "optimizer.lr", name)
        store.client.log_metric(run_id, "test/accuracy", 0.5)
        store.client.set_terminated(run_id)
        found[name] = run_id
    return found


@pytest.mark.parametrize(
    ("wanted", "name"),
    [
        ("lr=0.01 seed=1", NAMES[4]), ("lr=0.01", NAMES[4]), ("digits-mlp lr=1e-4", NAMES[0]), ("digits_", NAMES[2]),
        ("digitsXmlp 50%", NAMES[3]), ("digitsX", NAMES[3]),
    ],
)  # fmt: skip
def test_the_beginning_of_one_name_is_that_run(store: Store, ids: dict[str, str], wanted: str, name: str) -> None:
    assert find_run(store, wanted).info.run_id == ids[name]
    for reader in (open_run_reader(), MlflowRunReader(store)):
        assert reader.find(wanted).run_id == ids[name]


def test_the_beginning_of_several_names_lists_them(store: Store, ids: dict[str, str]) -> None:
    searches: list[Callable[[str], Any]] = [open_run_reader().find, MlflowRunReader(store).find]
    for search in (lambda wanted: find_run(store, wanted), *searches):
        with pytest.raises(UserError, match="'digits-mlp' matches several runs") as raised:
            search("digits-mlp")
        assert all(ids[name] in str(raised.value) and name in str(raised.value) for name in NAMES[:2])
        assert ids["digits_mlp"] not in str(raised.value)
        with pytest.raises(UserError, match="no run"):
            search("mlp")


@pytest.mark.parametrize("verb", [export, predict, promote, rerun])
def test_every_verb_takes_a_name_with_overrides(verb: Any, store: Store, ids: dict[str, str]) -> None:
    more = {"predict": ["input=x.npy"], "promote": ["as=champion"]}.get(verb.name, [])
    with pytest.raises(UserError) as raised:  # found, but nothing was trained
        verb(["lr=0.01 seed=1", *more])
    assert "unknown key" not in str(raised.value) and "no run 'lr" not in str(raised.value)
    with pytest.raises(UserError, match="'digits-mlp' matches several runs"):
        verb(["digits-mlp", *more])


def test_compare_and_store_take_it_too(store: Store, ids: dict[str, str]) -> None:
    found = compare.main(["lr=0.01 seed=1", "digits-mlp lr=1e-4", "log=false"])
    assert {run for row in found["rows"] for run in row["runs"]} == {ids[NAMES[0]], ids[NAMES[4]]}
    assert [run["run_id"] for run in store_verb.main(["keep", "lr=0.01 seed=1"])] == [ids[NAMES[4]]]


def test_a_name_of_one_override_is_given_by_its_id(store: Store, ids: dict[str, str]) -> None:
    with pytest.raises(UserError, match=r"lr=0.01: unknown key; .* \(a run of this name is given by its id\)"):
        export(["lr=0.01"])
