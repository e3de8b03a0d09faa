"""Samplers and pruners: which fit a search, and that a search which was cut off asks for what it would have asked for."""

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from lightning_modules.config.errors import UserError
from lightning_modules.sweep.cmaes_sampler import Axis
from lightning_modules.sweep.optuna_plan import make_pruner
from lightning_modules.sweep.samplers import ask_trial, grid_size, make_sampler
from lightning_modules.sweep.search_settings import PRUNERS, SAMPLERS, SearchSettings
from lightning_modules.sweep.search_space import Space

optuna.logging.set_verbosity(optuna.logging.WARNING)
ONE, TWO = {"val/loss": "minimize"}, {"val/accuracy": "maximize", "size": "minimize"}
NUMBERS: Space = {
    "depth": IntDistribution(1, 9),
    "lr": FloatDistribution(1e-4, 1e-1, log=True),
    "momentum": FloatDistribution(0.0, 1.0, step=0.25),
}
MIXED: Space = {**NUMBERS, "model": CategoricalDistribution(["mlp", "convnet", None])}
GRID: Space = {key: MIXED[key] for key in ("depth", "model", "momentum")}
SEARCHES: dict[str, tuple[SearchSettings, Space, dict[str, str]]] = {
    "tpe": (SearchSettings(sampler="tpe", sampler_options={"n_startup_trials": 5}), MIXED, ONE),
    "tpe, two objectives": (SearchSettings(sampler="tpe", sampler_options={"n_startup_trials": 5}), MIXED, TWO),
    "cmaes": (SearchSettings(sampler="cmaes"), NUMBERS, ONE),
    "random": (SearchSettings(sampler="random"), MIXED, ONE),
    "grid": (SearchSettings(sampler="grid"), GRID, ONE),
    "nsga2": (SearchSettings(sampler="nsga2", sampler_options={"population_size": 6}), MIXED, TWO),
}
TRIALS = 26


def study_in(path: Path, objectives: dict[str, str]) -> optuna.Study:
    storage = optuna.storages.JournalStorage(JournalFileBackend(str(path)))
    return optuna.create_study(
        study_name="search", storage=storage, directions=list(objectives.values()), load_if_exists=True
    )


def go_on(path: Path, search: str, until: int) -> list[dict[str, Any]]:
    """Ask and tell until there are so many trials; every fifth fails, every seventh is pruned."""
    settings, space, objectives = SEARCHES[search]
    study = study_in(path, objectives)
    for trial in study.get_trials(states=(TrialState.RUNNING,)):
        end(study, ask_trial(study, settings, space, objectives, trial.number))
    for number in range(len(study.trials), until):
        end(study, ask_trial(study, settings, space, objectives, number))
    return [trial.params for trial in study.trials]


def end(study: optuna.Study, trial: optuna.Trial) -> None:
    loss = abs(math.log10(trial.params.get("lr", 0.01)) + 2) + abs(trial.params["depth"] - 4) / 4
    values = [loss, -loss * trial.params["depth"]][: len(study.directions)]
    if trial.number % 5 == 3:
        study.tell(trial, state=TrialState.FAIL)
    elif trial.number % 7 == 5 and len(values) == 1:
        trial.report(loss, step=1 + trial.number % 3)
        study.tell(trial, state=TrialState.PRUNED)
    else:
        study.tell(trial, values)


@pytest.mark.parametrize("search", SEARCHES)
def test_a_search_that_is_cut_off_asks_for_the_same_trials(search: str, tmp_path: Path) -> None:
    whole = go_on(tmp_path / "whole", search, TRIALS)
    for until in (1, 4, 9, 13, 20, TRIALS):  # each with a study and samplers of its own
        cut = go_on(tmp_path / "cut", search, until)
        assert cut == whole[:until]
    assert len({json.dumps(params) for params in whole}) > TRIALS / 2


DIE = """
import os, sys; sys.path.insert(0, {folder!r})
from pathlib import Path
import test_samplers as t
path, search = Path(sys.argv[1]), sys.argv[2]
t.go_on(path, search, 11)
settings, space, objectives = t.SEARCHES[search]
study = t.study_in(path, objectives)
storage, left = study._storage, [int(sys.argv[3])]
write = storage.set_trial_param
def dying(*args):
    if not left[0]:
        os.kill(os.getpid(), 9)
    left[0] -= 1
    write(*args)
storage.set_trial_param = dying
t.ask_trial(study, settings, space, objectives, 11)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("search", "written"), [("tpe", 0), *((search, 2) for search in SEARCHES)])
def test_a_trial_that_a_kill_left_half_written_is_completed(search: str, written: int, tmp_path: Path) -> None:
    whole = go_on(tmp_path / "whole", search, 14)
    code = DIE.format(folder=str(Path(__file__).parent))
    died = subprocess.run([sys.executable, "-c", code, str(tmp_path / "cut"), search, str(written)], env=os.environ)
    assert died.returncode == -9
    half = study_in(tmp_path / "cut", SEARCHES[search][2]).trials[-1]
    assert (half.number, len(half.params), half.state) == (11, written, TrialState.RUNNING)
    assert go_on(tmp_path / "cut", search, 14) == whole


@pytest.mark.parametrize("search", SEARCHES)
def test_another_seed_makes_another_search(search: str, tmp_path: Path) -> None:
    settings, space, objectives = SEARCHES[search]
    asked = []
    for seed in (0, 1):
        other = SearchSettings(sampler=settings.sampler, sampler_options=settings.sampler_options, seed=seed)
        study = optuna.create_study(directions=list(objectives.values()))
        asked.append([ask_trial(study, other, space, objectives, number).params for number in range(3)])
    assert asked[0] != asked[1]


def test_several_trials_at_a_time_differ(tmp_path: Path) -> None:
    settings, space, objectives = SEARCHES["tpe"]
    go_on(tmp_path / "study", "tpe", 12)
    study = study_in(tmp_path / "study", ONE)
    asked = [ask_trial(study, settings, space, objectives, number).params for number in range(12, 16)]
    assert len({json.dumps(params) for params in asked}) == 4


def test_a_grid_is_searched_completely_and_each_point_once(tmp_path: Path) -> None:
    assert grid_size(GRID) == 9 * 3 * 5
    params = go_on(tmp_path / "study", "grid", grid_size(GRID))
    assert len({json.dumps(point) for point in params}) == grid_size(GRID)
    assert {point["momentum"] for point in params} == {0.0, 0.25, 0.5, 0.75, 1.0}


def sphere(params: dict[str, Any]) -> float:
    return sum((params[key] - centre) ** 2 for key, centre in zip("abc", (1.3, -2.1, 3.3), strict=True))


def rosenbrock(params: dict[str, Any]) -> float:
    a, b, c = (params[key] for key in "abc")
    return 100 * (b - a**2) ** 2 + (1 - a) ** 2 + 100 * (c - b**2) ** 2 + (1 - b) ** 2


def network(params: dict[str, Any]) -> float:
    """Best at lr 3e-3, 11 layers and width 64, as far as a grid of whole numbers allows."""
    return math.log10(params["a"] / 3e-3) ** 2 + ((params["b"] - 11) / 4) ** 2 + math.log2(params["c"] / 64) ** 2


def best(sampler: str, function: Callable[[dict[str, Any]], float], space: Space, seed: int) -> float:
    study = optuna.create_study()
    for number in range(80):
        trial = ask_trial(study, SearchSettings(sampler=sampler, seed=seed), space, ONE, number)
        study.tell(trial, function(trial.params))
    return study.best_value


@pytest.mark.parametrize(
    ("function", "space"),
    [
        (sphere, {key: FloatDistribution(-5, 5) for key in "abc"}),
        (rosenbrock, {key: FloatDistribution(-2, 2) for key in "abc"}),
        (
            network,
            {
                "a": FloatDistribution(1e-5, 1, log=True),
                "b": IntDistribution(1, 32),
                "c": IntDistribution(8, 512, log=True),
            },
        ),
    ],
    ids=["sphere", "rosenbrock", "log and whole numbers"],
)
def test_cmaes_is_clearly_better_than_random(function: Callable[[dict[str, Any]], float], space: Space) -> None:
    pairs = [(best("cmaes", function, space, seed), best("random", function, space, seed)) for seed in range(3)]
    assert all(cmaes < random for cmaes, random in pairs), pairs
    assert sum(cmaes for cmaes, _ in pairs) < sum(random for _, random in pairs) / 4


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_cmaes_turns_away_from_pruned_trials_and_forgets_failed_ones(direction: str) -> None:
    space: Space = {"x": FloatDistribution(0, 1), "y": FloatDistribution(0, 1)}
    sign = 1 if direction == "minimize" else -1
    study = optuna.create_study(direction=direction)
    for number in range(90):
        trial = ask_trial(study, SearchSettings(sampler="cmaes"), space, {"v": direction}, number)
        if trial.number % 6 == 0:
            study.tell(trial, state=TrialState.FAIL)
        elif trial.params["x"] > 0.3:  # all but the corner is pruned, sooner the farther it is from it
            trial.report(sign * trial.params["x"], step=int(10 * (1 - trial.params["x"])) + 1)
            study.tell(trial, state=TrialState.PRUNED)
        else:
            study.tell(trial, sign * (trial.params["x"] + trial.params["y"]))
    for key in ("x", "y"):
        late = [trial.params[key] for trial in study.trials[60:]]
        assert sum(late) / len(late) < 0.25, key


@pytest.mark.parametrize(
    "distribution",
    [
        IntDistribution(1, 9),
        IntDistribution(1, 64, log=True),
        IntDistribution(2, 11, step=3),
        FloatDistribution(0, 1, step=0.25),
        FloatDistribution(1e-5, 1e-1, log=True),
        FloatDistribution(-3, 5),
    ],
)
def test_a_coordinate_leads_into_the_range_and_back(distribution: Any) -> None:
    axis = Axis(distribution)
    for index in range(101):
        value = axis.value(index / 100)
        assert distribution._contains(distribution.to_internal_repr(value))
        assert axis.value(axis.coordinate(value)) == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize(
    ("settings", "space", "objectives", "said"),
    [
        ({"sampler": "cmaes"}, MIXED, ONE, "cmaes needs numbers, and model has choices; use tpe, random or nsga2"),
        ({"sampler": "cmaes"}, NUMBERS, TWO, "cmaes supports one objective, not 2; use nsga2 or tpe"),
        ({"sampler": "grid"}, MIXED, ONE, "grid needs a finite number of values, and lr is a range without a step"),
        ({"sampler": "grid"}, {"a": IntDistribution(0, 10**7)}, ONE, "this grid has 10,000,001 points"),
        ({"sampler_options": {"n_startup_trial": 3}}, MIXED, ONE, "did you mean 'n_startup_trials'"),
        ({"sampler_options": {"n_startup_trials": "3"}}, MIXED, ONE, "n_startup_trials='3': expected an integer"),
        ({"sampler_options": {"seed": 3}}, MIXED, ONE, "sampler_options.seed: there is no such option"),
        ({"sampler": "nsga2", "sampler_options": {"population_size": 1}}, MIXED, TWO, "must be greater than or equal"),
        ({"sampler": "cmaes", "sampler_options": {"sigma": 0}}, NUMBERS, ONE, "sigma: 0 is not above 0"),
    ],
)
def test_a_sampler_that_does_not_fit_is_refused(
    settings: dict[str, Any], space: Space, objectives: dict[str, str], said: str
) -> None:
    with pytest.raises(UserError) as error:
        make_sampler(SearchSettings(**settings), space, objectives, 0)
    assert said in str(error.value)


@pytest.mark.slow
def test_no_sampler_writes_a_pickle_into_the_storage(tmp_path: Path) -> None:
    for index, search in enumerate(SEARCHES):
        go_on(tmp_path / str(index), search, TRIALS)
        lines = (tmp_path / str(index)).read_text().splitlines()
        attributes = [json.loads(line).get("system_attr", {}) for line in lines]
        written = {key.split(":")[0] for attribute in attributes for key in attribute}
        assert written <= {"NSGAIISampler", "tpe"}, search


def test_every_sampler_that_is_named_can_be_made() -> None:
    for name in SAMPLERS:
        make_sampler(SearchSettings(sampler=name), GRID if name == "grid" else NUMBERS, ONE, 3)


def test_every_pruner_that_is_named_can_be_made_and_wrong_ones_are_refused() -> None:
    for name in PRUNERS:
        assert isinstance(make_pruner(name, {}), optuna.pruners.BasePruner)
    with pytest.raises(UserError, match="no 'ahsa'; did you mean 'asha'"):
        make_pruner("ahsa", {})
    with pytest.raises(UserError, match="no such option; did you mean 'reduction_factor'"):
        make_pruner("asha", {"reduction_facto": 3})
    with pytest.raises(UserError, match="reduction_factor='3': expected an integer"):
        make_pruner("asha", {"reduction_factor": "3"})
    with pytest.raises(UserError, match="must be `reduction_factor >= 2`"):
        make_pruner("asha", {"reduction_factor": 1})


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("asha", {"reduction_factor": 2}),
        ("median", {"n_startup_trials": 3}),
        ("hyperband", {"reduction_factor": 2}),
    ],
)
def test_a_pruner_gives_up_what_stays_behind_and_keeps_the_best(name: str, options: dict[str, Any]) -> None:
    pruner = make_pruner(name, options, max_epochs=8)
    # Hyperband draws a trial's bracket from the name
    study = optuna.create_study(study_name="study 0", direction="maximize", pruner=pruner)
    epochs = [_train(study, quality) for quality in [0.5, 0.6, 0.7, 0.8] + [0.1] * 10 + [0.9] * 4]
    assert epochs[-4:] == [8] * 4
    assert sum(epochs[4:14]) < 0.8 * 80


def _train(study: optuna.Study, quality: float) -> int:
    """Epochs that a trial of this quality got."""
    trial = study.ask()
    for epoch in range(1, 9):
        trial.report(quality * epoch, step=epoch)
        if trial.should_prune():
            study.tell(trial, state=TrialState.PRUNED)
            return epoch
    study.tell(trial, quality)
    return 8
