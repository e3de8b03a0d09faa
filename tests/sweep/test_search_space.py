"""Search spaces: from YAML and from the command line, and what is said of a wrong one."""

import random
import string
import struct
from pathlib import Path
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from lightning_modules.config.command_line import compose_run
from lightning_modules.config.errors import UserError
from lightning_modules.sweep.search_settings import SearchSettings, check_search
from lightning_modules.sweep.search_space import (
    check_keys,
    describe_difference,
    parse_space,
    space_signature,
    to_overrides,
)

CONF = Path(__file__).resolve().parents[2] / "conf"


def read(yaml: str) -> Any:
    return OmegaConf.create(yaml)


@pytest.mark.filterwarnings("error")  # Optuna warns where the last step does not lie in the range
def test_every_kind_of_range_is_read_from_yaml() -> None:
    node = read("""
        optimizer.lr: {type: float, low: 1e-4, high: 1e-1, log: true}
        model.dropout: {type: float, low: 0, high: 0.5, step: 0.2}
        model.depth: {type: int, low: 1, high: 8, step: 3}
        model.hidden: {type: int, low: 8, high: 512, log: true}
        model: {type: categorical, choices: [mlp, convnet]}
        data.batch_size: [16, 32, null]
    """)
    assert parse_space(node, []) == {
        "data.batch_size": CategoricalDistribution([16, 32, None]),
        "model": CategoricalDistribution(["mlp", "convnet"]),
        "model.depth": IntDistribution(1, 7, step=3),
        "model.dropout": FloatDistribution(0, 0.4, step=0.2),
        "model.hidden": IntDistribution(8, 512, log=True),
        "optimizer.lr": FloatDistribution(1e-4, 1e-1, log=True),
    }


@pytest.mark.parametrize(
    ("word", "distribution"),
    [
        ("k=1e-3,1e-2", CategoricalDistribution([1e-3, 1e-2])),
        ("k=relu,'a,b',null,true", CategoricalDistribution(["relu", "a,b", None, True])),
        ("k=choice(a,1)", CategoricalDistribution(["a", 1])),
        ("k=range(1,5)", IntDistribution(1, 4)),
        ("k=range(4)", IntDistribution(0, 3)),
        ("k=range(1,10,4)", IntDistribution(1, 9, step=4)),
        ("k=range(5,1,-1)", IntDistribution(2, 5)),
        ("k=range(0.1,0.5,0.1)", FloatDistribution(0.1, 0.4, step=0.1)),
        ("k=tag(log,range(1,65))", IntDistribution(1, 64, log=True)),
        ("k=interval(1e-4,1e-1)", FloatDistribution(1e-4, 1e-1)),
        ("k=tag(log,interval(1e-4,1e-1))", FloatDistribution(1e-4, 1e-1, log=True)),
        ("k=int(interval(1,8))", IntDistribution(1, 8)),
        ("k=tag(log,int(interval(1,8)))", IntDistribution(1, 8, log=True)),
    ],
)
def test_every_kind_of_sweep_on_the_command_line_is_a_range(word: str, distribution: Any) -> None:
    assert parse_space({}, [word]) == {"k": distribution}


def test_the_command_line_wins_over_yaml_and_a_fixed_value_is_not_searched() -> None:
    node = read("{a: [1, 2], b: [1, 2], c: [1, 2]}")
    assert parse_space(node, ["a=3,4", "b=7", "+d=range(3)"]) == {
        "+d": IntDistribution(0, 2),
        "a": CategoricalDistribution([3, 4]),
        "c": CategoricalDistribution([1, 2]),
    }


MISTAKES = {
    "{type: flaot, low: 0, high: 1}": "there is no type 'flaot'; did you mean 'float'?",
    "{low: 0, high: 1}": "the type is missing",
    "{type: float, low: 0, hihg: 1}": "float has no field 'hihg'; did you mean 'high'?",
    "{type: float, low: 0}": "float needs a value for 'high'",
    "{type: float, low: 1, high: 1}": "the range from 1 to 1 is empty",
    "{type: int, low: 8, high: 2}": "the range from 8 to 2 is empty",
    "{type: int, low: 1, high: 2.5}": "high=2.5: expected an integer",
    "{type: float, low: a, high: .inf}": "low='a': expected a number",
    "{type: float, low: 0, high: 1, log: true}": "log needs low > 0, got 0",
    "{type: float, low: 1, high: 2, log: true, step: 0.5}": "log and step (0.5) exclude each other",
    "{type: float, low: 1, high: 2, log: maybe}": "log='maybe': expected true or false",
    "{type: int, low: 1, high: 8, step: 10}": "step: 10 is larger than the range from 1 to 8",
    "{type: int, low: 1, high: 8, step: 0}": "step: 0 is not above 0",
    "{type: categorical, choices: []}": "there are no choices",
    "[]": "there are no choices",
    "[1, 2, 1]": "the choice 1 is a duplicate",
    "[1, true]": "the choice True is a duplicate",
    "[[1, 2], 3]": "the choice [1, 2] is not a scalar",
    "{type: categorical, choices: relu}": "choices: 'relu' is not a list",
    "0.1": "0.1 is not a range",
}


@pytest.mark.parametrize("yaml", MISTAKES)
def test_a_mistake_in_a_range_is_named_with_its_key(yaml: str) -> None:
    with pytest.raises(UserError) as error:
        parse_space(OmegaConf.create({"some.key": OmegaConf.create(yaml) if yaml != "0.1" else 0.1}), [])
    assert f"some.key: {MISTAKES[yaml]}" in str(error.value)


def test_all_mistakes_of_a_space_are_told_at_once() -> None:
    node = read("{a: {type: flaot}, b: [], c: {type: int, low: 3, high: 3}}")
    with pytest.raises(UserError) as error:
        parse_space(node, ["d=tag(lgo,interval(0,1))", "e=range(3,3)", "f=glob(*)", "g=choice([1],2)"])
    assert str(error.value).startswith("7 mistakes in the search space:")
    for part in ("a: ", "b: ", "c: ", "no tag 'lgo'", "e=range(3,3): the range is empty", "f=glob(*): ", "g: "):
        assert part in str(error.value)


def test_an_empty_space_is_refused_with_a_way_out() -> None:
    with pytest.raises(UserError, match="search space is empty: choose one"):
        parse_space({}, ["seed=1"])


FIXED = ["data=mnist1d", "model=mlp"]


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("optimizer.lrr=1,2", "optimizer.lrr: 'optimizer' has no 'lrr'; did you mean 'lr'"),
        ("model=mlp,convnett", "model=convnett: unknown option of model; did you mean 'convnet'"),
        ("optimiser=adam,sgd", "optimiser: the config has no 'optimiser'; did you mean 'optimizer'"),
        ("search.trials=1,2", "search.trials: a search cannot vary this"),
        ("model=range(3)", "model=(a range of numbers): "),
    ],
)
def test_an_unknown_key_or_option_is_answered_with_the_nearest(word: str, said: str) -> None:
    with pytest.raises(UserError) as error:
        check_keys(parse_space({}, [word, "seed=1,2"]), FIXED)
    assert said in str(error.value)


@pytest.mark.slow
def test_a_key_below_a_searched_group_must_exist_in_every_option() -> None:
    check_keys(parse_space({}, ["model=mlp,convnet", "model.dropout=interval(0,1)", "+trainer.x=1,2"]), FIXED)
    with pytest.raises(UserError) as error:
        check_keys(parse_space({}, ["model=mlp,convnet", "model.depth=1,2", "optimizer.lr=1,2"]), FIXED)
    assert "model.depth: 'model' has no 'depth'" in str(error.value)
    assert "(with model=mlp)" in str(error.value) and "convnet)" not in str(error.value)


def test_keys_are_looked_up_in_the_groups_of_the_command_line() -> None:
    space = parse_space({}, ["optimizer.momentum=0.5,0.9"])
    with pytest.raises(UserError, match="'optimizer' has no 'momentum'"):
        check_keys(space, FIXED)
    check_keys(space, ["optimizer=momentum"])


def _random_value(draw: random.Random) -> Any:
    text = "".join(draw.choices(string.printable + "'\"\\${}[]=,:()äß漢 \n", k=draw.randrange(9)))
    number = struct.unpack("d", draw.randbytes(8))[0]
    words = ["null", "True", "nan", "inf", "-inf", "", "1", "1e-3", "a b", "${seed}", "-", "~x", "mlp", "base/split"]
    return draw.choice(
        [
            text,
            draw.choice(words),
            0.0 if number != number else number,
            draw.randint(-(2**70), 2**70),
            True,
            False,
            None,
        ]
    )


@pytest.mark.parametrize("seed", range(5))
def test_overrides_are_read_by_hydra_as_exactly_the_same_values(seed: int) -> None:
    draw, parser = random.Random(seed), OverridesParser.create()
    params = {f"a.k{index}": _random_value(draw) for index in range(400)} | {"+b": 1e-05, "c": -0.0, "d": float("inf")}
    for (key, value), word in zip(params.items(), to_overrides(params), strict=True):
        override = parser.parse_override(word)
        assert override.get_key_element() == key
        assert type(override.value()) is type(value) and repr(override.value()) == repr(value), word


def test_a_list_is_not_an_override_of_a_search() -> None:
    with pytest.raises(UserError, match=r"model.channels: \[1, 2\] is not a scalar"):
        to_overrides({"model.channels": [1, 2]})


def test_a_signature_does_not_depend_on_the_order_of_keys_and_shows_what_differs() -> None:
    one = parse_space(read("{a: [1, 2], b: {type: float, low: 1, high: 2, log: true}, e: [1]}"), [])
    same = parse_space(read("{e: [1], b: {type: float, low: 1, high: 2, log: true}, a: [1, 2]}"), [])
    other = parse_space(read("{a: [1, x], b: {type: int, low: 1, high: 9, step: 2}, c: [1], e: [1]}"), [])
    assert space_signature(one) == space_signature(same)
    assert space_signature(one) == space_signature(dict(reversed(one.items())))
    assert describe_difference(space_signature(one), space_signature(same)) == ""
    assert describe_difference(space_signature(one), space_signature(other)).splitlines() == [
        "a: was one of 1, 2, now one of 1, \"x\"",
        "b: was number from 1.0 to 2.0, log, now integer from 1 to 9, step 2",
        "c: was not searched, now one of 1",
    ]  # fmt: skip


def test_the_settings_of_a_search_are_checked_all_at_once() -> None:
    node = read("""
        trails: 3
        trials: 0
        sampler: tpee
        pruner: asha
        seed: 1.5
        sampler_options: [1]
        timeout_s: -1
        objectives: {val/loss: minimise, val/accuracy: maximize}
    """)
    mistakes = check_search(node)
    for part in (
        "search.trails: there is no such setting; did you mean 'trials'?",
        "search.trials=0: expected",
        "search.sampler='tpee': unknown value; did you mean 'tpe'?",
        "search.seed=1.5: expected an integer",
        "search.sampler_options=[1]: expected",
        "search.timeout_s=-1: expected",
        "search.objectives.val/loss='minimise': unknown value; did you mean 'minimize'",
        "search.pruner: asha compares trials by one metric, and there are 2 objectives",
    ):
        assert part in mistakes or any(mistake.startswith(part) for mistake in mistakes), part
    assert len(mistakes) == 8
    with pytest.raises(UserError, match="8 mistakes in the group search"):
        SearchSettings.from_config(node)


def test_a_value_of_none_or_true_is_not_taken_for_a_number() -> None:
    assert check_search({"trials": True, "seed": None}) == [
        "search.trials=True: expected an integer",
        "search.seed=None: expected an integer",
    ]


@pytest.mark.parametrize("option", sorted(path.stem for path in (CONF / "search").glob("*.yaml")))
def test_every_shipped_search_is_right_in_settings_space_and_keys(option: str) -> None:
    cfg = compose_run([f"search={option}"])
    settings = SearchSettings.from_config(cfg.search)
    if option == "none":
        assert settings == SearchSettings()
        return
    space = parse_space(cfg.search.space, [])
    check_keys(space, [])
