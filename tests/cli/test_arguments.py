"""The arguments of verbs: targets, KEY=VALUE of a declared type, and the messages for former spellings."""

from typing import Any

import pytest

from lightning_modules.cli import compare, compress, export, main, predict, reproduce, rerun, store
from lightning_modules.config.errors import UserError


def test_targets_settings_and_overrides_are_told_apart() -> None:
    assert reproduce.main.parse(["mnist1d", "seeds=3", "sweep.jobs=2", "optimizer.lr=1", "tier=[ci,cpu]"]) == {
        "targets": ["mnist1d"], "seeds": 3, "sweep__jobs": 2, "overrides": ["optimizer.lr=1"], "tier": ["ci", "cpu"],
    }  # fmt: skip


def test_a_value_may_hold_an_equals_sign_and_a_list_may_have_brackets() -> None:
    read = compare.main.parse(["runs", "baseline=model=mlp,seed=1", "by=[model, optimizer.lr]"])
    assert (read["baseline"], read["by"]) == ("model=mlp,seed=1", ["model", "optimizer.lr"])


def test_the_name_of_a_run_may_hold_an_equals_sign() -> None:
    name = "digits-convnet lr=1e-4 fold=0"
    assert rerun.main.parse([name, "here=true"]) == {"target": name, "here": True}
    assert compare.main.parse([name, "other"]) == {"targets": [name, "other"]}
    assert store.main.parse(["keep", name]) == {"target": "keep", "runs": [name]}
    assert compress.main.parse([name, "size_ratio=4", "seed=1"])["overrides"] == ["seed=1"]


@pytest.mark.parametrize(
    ("verb", "words", "message"),
    [
        (reproduce, ["all", "seeds=0"], "seeds=0: expected greater than or equal to 1"),
        (reproduce, ["all", "sweep.jobs=two"], "sweep.jobs=two: expected a valid integer"),
        (reproduce, ["all", "fresh=yes"], "fresh=yes: expected true or false"),
        (reproduce, ["all", "jobs=2"], "jobs is now written sweep.jobs=2"),
        (reproduce, ["all", "--tier", "ci"], "--tier is now written tier=…"),
        (reproduce, ["all", "--lint"], "--lint is now written lint=true"),
        (compare, ["runs", "--by=model"], "--by is now written by=model"),
        (compare, ["runs", "--no-log"], "--no-log is now written log=false"),
        (compare, ["runs", "--fast"], "--fast: unknown flag; arguments are KEY=VALUE"),
        (compare, ["runs", "metrc=a"], "metrc=a: unknown key; did you mean 'metric'?"),
        (rerun, ["run", "--here"], "--here is now written here=true"),
        (rerun, ["run", "other"], "other: expected KEY=VALUE"),
        (rerun, [], "RUN is missing: id, its first 6 or more characters"),
        (export, ["run", "format=tflite"], "format=tflite: expected 'onnx', 'pt2', 'aoti' or"),
        (predict, ["run", "input=a", "output="], "output=: the value is empty"),
        (predict, ["run"], "input=… is missing"),
        (compress, ["init_from=3e782338"], "init_from is now written without a key: touchstone compress 3e782338"),
        (store, ["sink"], "sink: expected 'relocate', 'sync', 'prune', 'upgrade', 'delete', 'restore', 'keep'"),
        (store, ["prune", "--store", "x"], "--store is now written tracking.uri=…"),
        (store, ["prune", "--dry-run"], "--dry-run is now written dry_run=true"),
    ],
)
def test_a_mistake_is_answered_with_what_is_expected(verb: Any, words: list[str], message: str) -> None:
    with pytest.raises(UserError) as caught:
        verb.main(words)
    assert str(caught.value).startswith(message)


def test_all_mistakes_are_reported_at_once() -> None:
    with pytest.raises(UserError) as caught:
        reproduce.main(["all", "seeds=x", "--judge", "sweep.retries=-1"])
    assert [line.split("=")[0].split(" ")[0] for line in str(caught.value).splitlines()] == [
        "seeds", "--judge", "sweep.retries", "see",
    ]  # fmt: skip


@pytest.mark.parametrize("verb", [name for name in main.VERBS if name != "train"])
def test_the_help_of_a_verb_fits_a_terminal_and_its_examples_parse(verb: str) -> None:
    import importlib
    import shlex

    command = importlib.import_module(f"lightning_modules.cli.{verb}").main
    lines = command.help().splitlines()
    assert lines[0].startswith(f"usage: touchstone {verb} ")
    assert max(len(line) for line in lines[: lines.index("examples:")]) <= 80
    for example in command.examples:
        command.parse(shlex.split(example))


def test_a_key_of_another_verb_of_the_store_is_refused() -> None:
    with pytest.raises(UserError, match="store prune has no to="):
        store.main(["prune", "to=http://127.0.0.1:5000"])
