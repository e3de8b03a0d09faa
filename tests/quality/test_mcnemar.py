"""McNemar's exact test on the test predictions that real runs recorded."""

import json
from collections.abc import Callable
from fractions import Fraction
from math import comb
from pathlib import Path

import pandas as pd
import pytest

from lightning_modules.cli.compare import main
from lightning_modules.config.command_line import compose_run
from lightning_modules.config.errors import UserError
from lightning_modules.quality.mcnemar import exact_p
from lightning_modules.quality.prediction_recorder import FILE
from lightning_modules.run.run import run
from lightning_modules.tracking.artifacts import local_folder
from lightning_modules.tracking.store import open_store

QUICK = (
    "~callbacks.progress", "~callbacks.summary", "tracking.pictures=false", "model=linear", "trainer.max_epochs=1",
    "data.per_class=20", "callbacks=[default,test_predictions]", "callbacks.test_predictions.resamples=0",
    "callbacks.test_predictions.worst=0",
)  # fmt: skip


@pytest.fixture(scope="module")
def uri(new_store: Callable[[], str]) -> str:
    """A store with two learning rates over two seeds, a run of another split and one without predictions."""
    uri = new_store()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", uri)
        for lr in ("1e-2", "1e-5"):
            for seed in (0, 1):
                run(compose_run([*QUICK, f"optimizer.lr={lr}", f"seed={seed}", f"name=lr{lr} s{seed}"]))
        run(compose_run([*QUICK, "data.split_seed=1", "name=other split"]))
        run(compose_run([*QUICK[:-3], "name=none"]))
        run(
            compose_run(
                [*QUICK, "data=tabular", "~data.per_class", "data.name=diabetes", "task=regression", "name=reg"]
            )
        )
    return uri


@pytest.fixture(autouse=True)
def in_the_store(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)


def predictions(name: str) -> pd.DataFrame:
    found = next(iter(open_store().search_runs(f"attributes.run_name = '{name}'")))
    folder = local_folder(found.info.artifact_uri)
    assert folder is not None
    return pd.read_parquet(folder / FILE)


def by_hand(first: str, second: str) -> tuple[int, int, float]:
    """The discordant counts and twice the smaller tail of the binomial distribution, in exact fractions."""
    right = [predictions(name).eval("target == prediction").tolist() for name in (first, second)]
    b, c = (sum(x > y for x, y in zip(*pair, strict=True)) for pair in (right, right[::-1]))
    tail = sum(Fraction(comb(b + c, k), 2 ** (b + c)) for k in range(min(b, c) + 1))
    return b, c, float(min(2 * tail, Fraction(1)))


@pytest.mark.parametrize(("b", "c"), [(0, 0), (1, 0), (5, 5), (3, 12), (40, 18), (121, 59)])
def test_the_p_value_is_that_of_the_binomial_distribution(b: int, c: int) -> None:
    tail = sum(Fraction(comb(b + c, k), 2 ** (b + c)) for k in range(min(b, c) + 1))
    assert exact_p(b, c) == pytest.approx(float(min(2 * tail, Fraction(1))), rel=1e-9)
    assert exact_p(b, c) == exact_p(c, b)


def test_two_runs(capsys: pytest.CaptureFixture[str]) -> None:
    found = main(["lr1e-2 s0", "lr1e-5 s0", "test=mcnemar"])
    (tested,) = found["mcnemar"]
    only_first, only_second, p = by_hand(*tested["names"])
    assert (tested["only_first"], tested["only_second"]) == (only_first, only_second) and only_first + only_second > 20
    assert tested["p"] == pytest.approx(p) == tested["p_holm"]
    assert f"{only_first} are right in {tested['names'][0]}" in capsys.readouterr().out
    comparison = next(iter(open_store().search_runs("tags.`touchstone.kind` = 'comparison'")))
    assert (
        "McNemar: of"
        in Path(local_folder(comparison.info.artifact_uri) or "", "comparison/test_accuracy.md").read_text()
    )


def test_two_configurations_are_tested_seed_by_seed() -> None:
    names = [f"lr{lr} s{seed}" for lr in ("1e-2", "1e-5") for seed in (0, 1)]
    found = main([*names, "test=mcnemar", "baseline=optimizer.lr=1e-5", "log=false"])
    tests = {tuple(one["names"]): one for one in found["mcnemar"]}
    assert tests.keys() == {("lr1e-2 s0", "lr1e-5 s0"), ("lr1e-2 s1", "lr1e-5 s1")}
    for pair, one in tests.items():
        assert one["p"] == pytest.approx(by_hand(*pair)[2])
    smallest = min(one["p"] for one in tests.values())
    assert min(one["p_holm"] for one in tests.values()) == pytest.approx(min(1.0, 2 * smallest))
    assert any("share their test samples" in note for note in found["notes"])
    assert json.dumps(found["mcnemar"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["lr1e-2 s0", "none"],
            r"\(none\) has no readable predictions/test.parquet: train it with callbacks=\[default,test",
        ),
        (["lr1e-2 s0", "other split"], r"\(other split\) were tested on different data \(their fingerprints differ\)"),
        (["lr1e-2 s0", "lr1e-5 s0", "lr1e-2 s1", "by=data"], "tests two runs or two groups"),
        (
            ["lr1e-2 s0", "lr1e-5 s1", "lr1e-5 s0", "by=optimizer.lr,seed"],
            "name one as baseline",
        ),
    ],
)
def test_what_cannot_be_tested_says_why(words: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        main([*words, "test=mcnemar", "log=false"])


def test_runs_of_one_split_with_other_test_samples_are_refused() -> None:
    found = next(iter(open_store().search_runs("attributes.run_name = 'lr1e-5 s1'")))
    file = Path(local_folder(found.info.artifact_uri) or "", FILE)
    table, whole = pd.read_parquet(file), file.read_bytes()
    try:
        table.iloc[:-1].to_parquet(file, index=False)
        with pytest.raises(UserError, match=rf"different samples \({len(table)} and {len(table) - 1}\)"):
            main(["lr1e-2 s0", "lr1e-5 s1", "test=mcnemar", "log=false"])
        table.astype({"target": float}).to_parquet(file, index=False)
        with pytest.raises(UserError, match="has no predictions of one class per sample"):
            main(["lr1e-2 s0", "lr1e-5 s1", "test=mcnemar", "log=false"])
        file.write_bytes(whole[:100])
        with pytest.raises(UserError, match="has no readable"):
            main(["lr1e-2 s0", "lr1e-5 s1", "test=mcnemar", "log=false"])
    finally:
        file.write_bytes(whole)


def test_equal_numbers_and_targets_of_other_data_are_refused() -> None:
    store = open_store()
    found = next(iter(store.search_runs("attributes.run_name = 'lr1e-5 s1'")))
    try:
        store.client.set_tag(found.info.run_id, "data.fingerprint", "of other data")
        with pytest.raises(UserError, match="their fingerprints differ"):
            main(["lr1e-2 s0", "lr1e-5 s1", "test=mcnemar", "log=false"])
    finally:
        store.client.set_tag(found.info.run_id, "data.fingerprint", found.data.tags["data.fingerprint"])
