"""Full disks, deleted stores and damaged files under a sweep, and several sweeps at once."""

import subprocess
from pathlib import Path
from typing import Any

import pytest
from interrupted import QUICK, check_whole, gate, once, points_of

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.timeout(600)  # the first waits for the undisturbed sweep too


# --- several at once ----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_eight_runs_at_a_time_lose_no_point(sweep: Any, store: Any) -> None:
    words = (*QUICK, "seed=range(8)", "trainer.max_epochs=2")
    one_at_a_time = sweep(*words, "sweep.name=one", quick=False)
    eight = sweep(*words, "sweep.jobs=8", "sweep.name=eight", quick=False)
    check_whole(store, eight, 8, points_of(store, one_at_a_time))


@pytest.mark.slow
def test_two_sweeps_at_once_on_one_store_lose_nothing(sweep: Any, launch: Any, place: Path, store: Any) -> None:
    words = (*QUICK, "seed=range(4)", "sweep.jobs=2", *gate(place))
    others = launch(*words, "sweep=other")
    others.waiting(place, 2)  # they are in the middle of it
    (place / "open").touch()
    mine = sweep(*words, "sweep.name=mine", quick=False)
    assert others.ends() == 0, others.said()
    again = sweep(*words, "sweep.name=other", quick=False)  # trains nothing
    assert "4 of them done already" in again.said
    check_whole(store, mine, 4)
    check_whole(store, again, 4, points_of(store, mine))


# --- disks and files ----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_full_disk_is_told_and_once_there_is_room_the_sweep_goes_on(
    sweep: Any, place: Path, small_disk: Path, store: Any, undisturbed: Any
) -> None:
    words = (*QUICK, "seed=range(3)", "tracking.min_free_mb=0", *once(place, "fill_the_disk"))
    full = sweep(*words, "sweep.name=cut", quick=False)
    assert full.code == 1
    assert "Traceback" not in full.said
    assert any(word in full.said.lower() for word in ("no space", "disk is full", "not enough disk space")), full.said
    (small_disk / "ballast").unlink()
    gone_on = sweep(*words, "sweep.name=cut", "sweep.retries=9", quick=False)
    check_whole(store, gone_on, 3, undisturbed)


@pytest.mark.slow
def test_a_store_that_cannot_be_written_is_told(command: Any, small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    done = command("train.py", "-m", *QUICK, "seed=0,1", "tracking.min_free_mb=0")
    assert done.returncode == 1
    assert "is not writable" in done.stderr
    assert str(small_disk) in done.stderr
    assert "Traceback" not in done.stderr


def test_a_folder_of_sweeps_that_cannot_be_written_is_told(sweep: Any, store: Any) -> None:
    folder = Path(store.uri.removeprefix("sqlite:///")).parent / "sweeps"
    folder.write_text("a file in its place")
    done = sweep(*QUICK, "seed=0,1", quick=False)
    assert (done.code, done.parent) == (1, None)
    assert str(folder) in done.said
    assert "Traceback" not in done.said


@pytest.mark.slow
def test_a_store_that_is_deleted_under_way_ends_the_sweep_with_a_word(launch: Any, place: Path) -> None:
    command = launch(*QUICK, "seed=range(3)", "sweep.jobs=2", *once(place, "delete_the_store"), "sweep=cut")
    assert command.ends() == 1
    assert "store" in command.said()
    assert "Traceback" not in command.said()


@pytest.mark.slow
def test_a_damaged_checkpoint_lets_its_trial_begin_anew(sweep: Any, place: Path, store: Any, undisturbed: Any) -> None:
    words = (*QUICK, "seed=range(2)", *once(place, "damage"))
    done = sweep(*words, "sweep.name=cut", quick=False)
    assert (place / "done").exists()
    assert "SIGKILL" in done.said
    check_whole(store, done, 2, undisturbed)


SEARCH = (*QUICK, "hydra/sweeper=optuna", "optimizer.lr=tag(log,interval(1e-3,1e-1))", "trainer.max_epochs=1")


@pytest.mark.slow
def test_half_a_line_in_the_journal_is_mended_and_nonsense_is_told(sweep: Any, store: Any) -> None:
    first = sweep(*SEARCH, "search.trials=1", "sweep.name=cut", quick=False)
    journal = Path(store.uri.removeprefix("sqlite:///")).parent / "sweeps" / "cut" / "study.journal"
    whole = journal.read_text()
    journal.write_text(whole + whole.splitlines()[-1][:20])
    second = sweep(*SEARCH, "search.trials=2", "sweep.name=cut", quick=False)
    check_whole(store, second, 2)
    assert second.children[0].run_id == first.children[0].run_id
    lines = journal.read_text().splitlines()
    journal.write_text("\n".join([*lines[:2], "\x00\x00nonsense", *lines[3:]]) + "\n")
    third = sweep(*SEARCH, "search.trials=3", "sweep.name=cut", quick=False)
    assert third.code == 1
    assert str(journal) in third.said
    assert "Traceback" not in third.said
    assert len(third.children) == 2


def test_a_name_with_a_space_is_refused(sweep: Any) -> None:
    done = sweep("seed=0,1", "sweep.name='my sweep'")
    assert (done.code, done.parent) == (1, None)
    assert "sweep=my sweep: a name has letters, digits" in done.said
