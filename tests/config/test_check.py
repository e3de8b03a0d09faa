"""Mistakes in the config are reported before anything is built: all together, each with key, value and the valid names."""

import pytest

from lightning_modules.config.check import check_config
from lightning_modules.config.command_line import (
    compose_run,
    move_flags_last,
    override_mistakes,
    quote_run_ids,
    run_cli,
)
from lightning_modules.config.errors import UserError, suggest
from lightning_modules.sweep.hydra_plugin import refuse_sweep_without_m

MISTAKES = {
    "+optimizer.lrr=1": ["optimizer.lrr=1", "AdamW", "did you mean 'lr'?"],
    "optimizer.lr=abc": ["optimizer.lr=abc", "a number"],
    "optimizer.lr=null": ["optimizer.lr=null", "a number"],
    "model.channels=abc": ["model.channels=abc", "expected a list, got a string"],
    "trainer.max_epochs=1.5": ["trainer.max_epochs=1.5", "an integer"],
    "trainer.accumulate_grad_batches=0": ["trainer.accumulate_grad_batches=0", "1 or more"],
    "trainer.max_epochs=9223372036854775808": ["trainer.max_epochs=9223372036854775808", "64-bit"],
    "trainer.accumulate_grad_batches=-9223372036854775809": ["accumulate_grad_batches=-9223372036854775809", "64-bit"],
    "model.channels=[4,9223372036854775808]": ["model.channels[1]=9223372036854775808", "64-bit"],
    "trainer.precision=bogus": ["trainer.precision=bogus", "'16-mixed'"],
    "+modle.hidden=3": ["modle", "did you mean 'model'"],
    "~model._target_": ["model", "_target_", "is missing"],
    "~optimizer": ["optimizer", "required"],
    "~scheduler": ["scheduler", "deleted"],
    "task.loss=null": ["task.loss=null", "_target_"],
    "task.loss._target_=torch.nn.CrossEntropyLos": ["task.loss._target_", "'CrossEntropyLoss'"],
    "task.loss._target_=torch.nn": ["task.loss._target_", "module"],
    "model._target_=nowhere.Net": ["model._target_=nowhere.Net", "no module named 'nowhere'"],
    "task.monitor.mode=most": ["task.monitor.mode=most", "'min' or 'max' or null, got 'most'"],
    "+task.monitor.metrik=x": ["task.monitor.metrik", "did you mean 'metric'?"],
    "+callbacks.mine.patience=3": ["callbacks.mine", "_target_"],
    "tracking.min_free_mb=much": ["tracking.min_free_mb=much", "a number"],
    "tracking.flush_points=0": ["tracking.flush_points=0", "1 or more"],
    "+tracking.flush=1": ["tracking.flush", "flush_points"],
    "tracking.enabled=maybe": ["tracking.enabled=maybe", "true or false"],
    "seed=-1": ["seed=-1", "0 or more"],
    "seed=${nope}": ["seed=${nope}", "'nope' not found"],
    "optimizer.lr=${oc.env:NO_SUCH_NAME}": ["optimizer.lr=", "NO_SUCH_NAME"],
    "data.batch_size=???": ["data.batch_size", "missing value"],
    "steps_per_call=often": ["steps_per_call=often", "'auto'"],
    "compile=perhaps": ["compile=perhaps", "true or false"],
    "cpu_threads=0": ["cpu_threads=0", "1 or more"],
    "data.batch_size=1000000000000000000000000000000": ["data.batch_size=10000", "a 64-bit integer"],
}


@pytest.mark.parametrize("override", MISTAKES)
def test_a_mistake_in_the_config_is_told_with_its_key_and_what_is_right(override: str) -> None:
    cfg = compose_run([override])
    with pytest.raises(UserError) as told:
        check_config(cfg)
    for word in MISTAKES[override]:
        assert word in str(told.value)


def test_all_mistakes_are_told_at_once() -> None:
    cfg = compose_run(["optimizer.lr=abc", "+model.depht=3", "tracking.uri=[1]", "seed=x"])
    with pytest.raises(UserError) as told:
        check_config(cfg)
    assert str(told.value).startswith("5 mistakes")  # data.seed is that of the run
    for key in ("optimizer.lr", "model.depht", "tracking.uri", "seed=x", "data.seed"):
        assert key in str(told.value)


def test_options_given_as_a_list_pass_the_check() -> None:
    cfg = compose_run(["callbacks=[default,early_stopping,ema]"])
    assert {"best", "last", "early_stopping", "ema"} <= cfg.callbacks.keys()
    check_config(cfg)


def test_keywords_of_a_subclass_are_those_of_its_parents() -> None:
    check_config(compose_run(["data=cifar10", "data.batch_size=128"]))
    with pytest.raises(UserError, match=r"data\.batch_sise=1: .* did you mean 'batch_size'"):
        check_config(compose_run(["data=cifar10", "+data.batch_sise=1"]))


def test_keywords_that_go_to_a_library_are_not_judged() -> None:
    check_config(compose_run(["model=torchvision", "+model.dropout=0.5"]))


WORDS = {
    "data=digit": "did you mean 'digits'?",
    "dataa=digits": "did you mean 'data'?",
    "optimizer.lrr=1": "did you mean 'lr'? (to add a new key: +optimizer.lrr=…)",
    "optimizer.lr.x=1": "'optimizer.lr' is a value",
    "optimizer": "expected KEY=VALUE",
    "=3": "key before '=' is missing",
    "name=a=b": 'name="…"',
    "callbacks=[default,early_stoping]": "did you mean 'early_stopping'?",
    "model=mlp,rasnet20": "did you mean 'resnet20'",
    "experiment=mnist1d/cn": "did you mean 'mnist1d/cnn'",
    "+model=mlp": "replace it with model=mlp",
    "~tracking": "tracking cannot be removed",
    "scheduler=null": "'none'",
    "debug=fats": "did you mean 'fast'",
}


@pytest.mark.parametrize("word", WORDS)
def test_a_word_of_the_command_line_that_means_nothing_is_answered_with_what_could_be_meant(
    word: str,
) -> None:
    mistakes = override_mistakes([word, "seed=3"], "train")
    assert len(mistakes) == 1
    assert WORDS[word] in mistakes[0]


def test_parts_of_options_are_not_offered_as_options() -> None:
    (told,) = override_mistakes(["data=digit"], "train")
    assert "base/" not in told


def test_the_nearest_names_are_offered_before_all_of_them() -> None:
    assert suggest("accurcy", ["accuracy", "loss"]) == "did you mean 'accuracy'?"
    assert suggest("zzz", ["b", "a"]) == "choose one of: a, b"


@pytest.mark.parametrize("name", ["3e782338", "12345678", "0e123456", "1a2b3c4d", "digits-mlp", "null"])
def test_a_short_run_id_that_looks_like_a_number_stays_a_name(name: str) -> None:
    cfg = compose_run([f"init_from={name}"])
    assert cfg.init_from == (None if name == "null" else name)
    check_config(cfg)


def test_only_names_of_runs_are_taken_as_text() -> None:
    words = ["init_from=1e234567,12345678,ab", "optimizer.lr=1e3", "resume='1e234567'", "resume=5e1", "seed=12345678"]
    assert quote_run_ids(words) == [
        "init_from='1e234567','12345678',ab", "optimizer.lr=1e3", "resume.run='1e234567'", "resume.run='5e1'",
        "seed=12345678",
    ]  # fmt: skip


def test_the_run_to_resume_and_what_may_differ_stand_side_by_side() -> None:
    cfg = compose_run(["resume=abc", "resume.allow=[data]"])
    assert cfg.resume == {"run": "abc", "allow": ["data"]}
    with pytest.raises(UserError, match=r"resume\.alow: unknown key; did you mean 'allow'"):
        check_config(compose_run(["+resume.alow=[data]"]))


@pytest.mark.parametrize(
    "word", ["resume=", "resume=' '", "init_from=", "tracking.experiment=", "task.monitor.metric="]
)
def test_a_name_that_is_empty_is_refused(word: str) -> None:
    with pytest.raises(UserError, match=rf"{word.split('=')[0]}=: empty value; give a name or an id"):
        check_config(compose_run([word]))


@pytest.mark.parametrize("words", [[""], ["run", "--to", ""], ["--experiment="], ["compare", " "]])
def test_an_empty_argument_of_any_verb_is_refused(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["verb.py", *words])
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")  # `answer` sets it
    with pytest.raises(SystemExit) as exit_:
        run_cli(lambda: print("the verb ran"))
    assert exit_.value.code == 1
    said = capsys.readouterr()
    assert "empty argument: " in said.err and not said.out


@pytest.mark.parametrize(("asked", "traced"), [("", False), ("0", False), ("1", True)])
def test_a_traceback_is_printed_where_the_user_asks_hydra_for_it(
    asked: str, traced: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def verb() -> None:
        raise UserError("a mistake")

    monkeypatch.setattr("sys.argv", ["verb.py"])
    monkeypatch.setenv("HYDRA_FULL_ERROR", asked)
    monkeypatch.setenv("TOUCHSTONE_TRACEBACK", "0")
    monkeypatch.delenv("TOUCHSTONE_TRACEBACK")
    for _ in range(2):  # the second time with the environment of a command that the first one starts
        with pytest.raises(SystemExit):
            run_cli(verb)
        said = capsys.readouterr().err
        assert said.endswith("a mistake\n") and ("Traceback" in said) == traced


@pytest.mark.parametrize("word", ["sweep.resume=rates", "sweep.resume=", "sweep.name=rates"])
def test_a_sweep_without_m_is_refused(word: str) -> None:
    with pytest.raises(UserError, match=rf"{word.split('=')[0]}=.*-m"):
        refuse_sweep_without_m(compose_run([word]))


@pytest.mark.parametrize(
    ("words", "sorted_words"),
    [
        ("a=1 -m b=2", "a=1 b=2 -m"),
        ("-m a=1 b=2", "a=1 b=2 -m"),
        ("a=1 --cfg job b=2 --config-dir mylab/conf ~c", "a=1 b=2 ~c --cfg job --config-dir mylab/conf"),
        ("--info defaults a=1 b=-2", "a=1 b=-2 --info defaults"),
        ("a=1 --info", "a=1 --info"),
    ],
)
def test_flags_may_stand_between_overrides(words: str, sorted_words: str) -> None:
    from hydra._internal.utils import get_args_parser

    assert move_flags_last(words.split()) == sorted_words.split()
    assert get_args_parser().parse_args(sorted_words.split()).overrides == [
        w for w in sorted_words.split() if w[0] in "abc~"
    ]
