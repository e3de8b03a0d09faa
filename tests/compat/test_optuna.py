import multiprocessing

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from lightning_modules.compat import optuna as compat

SPACE = {
    "lr": optuna.distributions.FloatDistribution(1e-3, 1e-1, log=True),
    "size": optuna.distributions.CategoricalDistribution([1, 2, 4]),
}


@pytest.fixture
def study(tmp_path) -> optuna.Study:
    storage = JournalStorage(JournalFileBackend(str(tmp_path / "journal")))
    return optuna.create_study(storage=storage, sampler=optuna.samplers.RandomSampler(seed=1))


def test_a_trial_is_found_by_its_number(study):
    study.ask()
    compat.trial_in_storage(study, study.ask().number).report(0.5, step=1)
    assert [trial.intermediate_values for trial in study.trials] == [{}, {1: 0.5}]


def test_a_stored_trial_gets_the_values_that_it_lacks(study):
    study.ask()
    trial = compat.reopen_trial(study, study.trials[0])
    values = {name: compat.suggest(trial, name, distribution) for name, distribution in SPACE.items()}
    assert study.trials[0].params == values
    assert study.trials[0].distributions == SPACE


def test_values_are_those_of_ask(study):
    fixed = study.ask(fixed_distributions=SPACE).params
    study.sampler = optuna.samplers.RandomSampler(seed=1)
    number = study.ask().number
    trial = compat.reopen_trial(study, study.trials[number])
    assert {name: compat.suggest(trial, name, distribution) for name, distribution in SPACE.items()} == fixed


def test_a_stored_trial_gets_an_attribute(study):
    study.ask()
    compat.set_user_attr(study, study.trials[0], "key", [1, 2])
    assert study.trials[0].user_attrs == {"key": [1, 2]}


def write(path: str, began, ended) -> None:
    storage = JournalStorage(JournalFileBackend(path))
    began.set()
    optuna.create_study(storage=storage)
    ended.set()


def test_a_writer_waits_for_the_lock_of_the_journal(tmp_path):
    path = tmp_path / "journal"
    path.touch()
    context = multiprocessing.get_context("fork")
    began, ended = context.Event(), context.Event()
    with compat.journal_lock(path):
        writer = context.Process(target=write, args=(str(path), began, ended))
        writer.start()
        assert began.wait(30)
        assert not ended.wait(0.5)
    assert ended.wait(30)
    writer.join()
