"""A run is resumed with the settings and the data it was recorded with, or not at all."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from lightning_modules.config.command_line import compose_run
from lightning_modules.config.errors import UserError
from lightning_modules.run.run import run
from lightning_modules.tracking.artifacts import artifact_path
from lightning_modules.tracking.checkpoint import read_checkpoint
from lightning_modules.tracking.resume import best_checkpoint
from lightning_modules.tracking.resume_drift import config_drift

TABLE = (
    "data=tabular", "data.name=null", "data.target=y", "model=linear", "tracking.system_metrics_s=null",
    "tracking.pictures=false", "trainer.max_epochs=2", "~callbacks.progress", "~callbacks.summary",
)  # fmt: skip


def write_table(path: Path, rows: int = 85) -> Path:
    generator = torch.Generator().manual_seed(0)
    lines = [f"{i % 2 + a:.3f},{b:.3f},{i % 2}" for i, (a, b) in enumerate(torch.rand(rows, 2, generator=generator))]
    path.write_text("\n".join(["a,b,y", *lines]) + "\n")
    return path


def resume(run_id: str, *overrides: str) -> None:
    run(compose_run([f"resume={run_id}", *overrides]))


def everything(store: Any, run_id: str) -> dict[str, Any]:
    """What a failed resume must not change: status, times, tags, params, artifacts, metric points."""
    found = store.client.get_run(run_id)
    folder = Path(found.info.artifact_uri.removeprefix("file://").replace("%20", " "))
    files = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    points = {key: store.client.get_metric_history(run_id, key) for key in found.data.metrics}
    steps = {key: [(point.step, point.value) for point in history] for key, history in points.items()}
    info = (found.info.status, found.info.start_time, found.info.end_time)
    return {"info": info, "tags": found.data.tags, "params": found.data.params, "files": files, "points": steps}


REFUSED = {
    "data.split_seed=7": r"data\.split_seed: 0 -> 7\n.*'resume\.allow=\[data\]'",
    "seed=1": r"seed: 0 -> 1\n",
    "data.batch_size=16": r"data\.batch_size: 64 -> 16\n",
    "optimizer.lr=0.5": r"optimizer\.lr: 0\.002 -> 0\.5\n",
    "optimizer.lr=0.5 seed=1 resume.allow=[seed]": r"now\):\n  optimizer\.lr: .*\n.*'resume\.allow=\[seed,optimizer\]'",
    "model.depth=2": r"model\.depth: None -> 2\n",
    "trainer.accumulate_grad_batches=2": r"trainer\.accumulate_grad_batches: 1 -> 2\n",
    "resume.allow=[dta]": r"resume\.allow=\[dta\]: the config has no 'dta'; did you mean 'data'",
}


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of the recorded run."""
    return tmp_path_factory.mktemp("table") / "grow.csv"


@pytest.fixture(scope="module")
def database_with_a_run(train_once: Callable[..., Path], table: Path) -> Path:
    return train_once(*TABLE, f"data.path={write_table(table)}", quick=False)


@pytest.fixture
def recorded(recorded_run: Any, table: Path) -> Any:
    write_table(table)  # which another test may have changed
    return recorded_run


def test_settings_that_change_results_are_refused_and_the_run_is_unchanged(store: Any, recorded: Any) -> None:
    before = everything(store, recorded.info.run_id)
    for words, message in REFUSED.items():
        with pytest.raises(UserError, match=message):
            resume(recorded.info.run_id, "trainer.max_epochs=4", *words.split())
    assert everything(store, recorded.info.run_id) == before


@pytest.mark.slow
def test_a_file_that_has_grown_is_refused_or_accepted_and_recorded(store: Any, recorded: Any, table: Path) -> None:
    run_id, was = recorded.info.run_id, recorded.data.tags["data.fingerprint"][:12]
    write_table(table, 95)
    before = everything(store, run_id)
    with pytest.raises(
        UserError, match=rf"data: fingerprint {was} -> \w{{12}}, train_samples 60 -> 66.*\n.*allow=\[data\]"
    ):
        resume(run_id, "trainer.max_epochs=4")
    assert everything(store, run_id) == before
    resume(run_id, "trainer.max_epochs=4", "resume.allow=[data]")
    after = store.client.get_run(run_id)
    assert after.info.status == "FINISHED"
    drift = after.data.tags["touchstone.resume_drift"]
    assert drift.startswith(
        f"data: fingerprint {was} -> {after.data.tags['data.fingerprint'][:12]}, train_samples 60 -> 66"
    )
    assert after.data.tags["touchstone.signature"] == "", (
        "a part of it was trained on other data: it stands for no config"
    )
    assert drift in artifact_path(store, after, "log.txt").read_text()
    assert len(after.inputs.dataset_inputs) == 2
    resume(run_id, "trainer.max_epochs=5")  # what was accepted is now what is recorded, and is not accepted for ever
    with pytest.raises(UserError, match=r"data\.split_seed"):
        resume(run_id, "data.split_seed=1")


def test_an_accepted_setting_is_recorded(store: Any, recorded: Any) -> None:
    resume(recorded.info.run_id, "optimizer.lr=0.5", "data.split_seed=3", "resume.allow=[optimizer.lr,data]")
    after = store.client.get_run(recorded.info.run_id)
    drift = after.data.tags["touchstone.resume_drift"]
    assert "optimizer.lr: 0.002 -> 0.5" in drift and "data.split_seed: 0 -> 3" in drift
    cfg = OmegaConf.load(artifact_path(store, after, "config/config.yaml"))
    assert (cfg.optimizer.lr, cfg.data.split_seed) == (0.5, 3)


def test_a_trial_that_was_cut_off_is_not_continued_on_other_data(store: Any, recorded: Any, table: Path) -> None:
    path = write_table(table, 95)
    cfg = compose_run([*TABLE, f"data.path={path}", "trainer.max_epochs=3"])
    with pytest.raises(UserError, match=rf"run {recorded.info.run_id}: .*\n  data: fingerprint"):
        run(cfg, continue_in=recorded.info.run_id)
    write_table(path)
    for words, message in (("data.split_seed=1", "data.split_seed: 0 -> 1"), ("optimizer.lr=1", "optimizer.lr")):
        with pytest.raises(UserError, match=message):
            run(compose_run([*TABLE, f"data.path={path}", words]), continue_in=recorded.info.run_id)
    run(compose_run([*TABLE, f"data.path={path}", "trainer.max_epochs=3"]), continue_in=recorded.info.run_id)
    assert store.client.get_run(recorded.info.run_id).info.status == "FINISHED"


def test_a_relative_path_is_that_of_the_recorded_folder(
    store: Any, train: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    write_table(tmp_path / "rel.csv")
    monkeypatch.chdir(tmp_path)
    first = train(*TABLE, "data.path=rel.csv", quick=False)
    monkeypatch.chdir(tmp_path / "elsewhere")
    resume(first.info.run_id, "trainer.max_epochs=3")
    after = store.client.get_run(first.info.run_id)
    assert after.data.tags["data.fingerprint"] == first.data.tags["data.fingerprint"]
    assert int(read_checkpoint(artifact_path(store, after, "checkpoints/last.ckpt"))["epoch"]) == 2


@pytest.mark.slow
def test_the_run_may_be_given_as_earlier_versions_and_python_give_it(store: Any, recorded: Any) -> None:
    cfg = compose_run(["trainer.max_epochs=3"])
    cfg.resume, cfg.overrides = recorded.info.run_id, ["trainer.max_epochs=3"]
    run(cfg)
    after = store.client.get_run(recorded.info.run_id)
    assert len(store.client.get_metric_history(after.info.run_id, "val/loss")) == 3
    assert best_checkpoint(store, after).is_file()


def test_resume_without_a_record_is_refused(store: Any) -> None:
    with pytest.raises(UserError, match="resume=abc: tracking=none has no record"):
        run(compose_run(["resume=abc", "tracking=none"]))


def test_as_many_samples_in_a_step_are_no_other_batch_size() -> None:
    before = OmegaConf.create({"data": {"batch_size": 16}, "trainer": {"devices": 2, "accumulate_grad_batches": 2}})
    same = OmegaConf.create({"data": {"batch_size": 64}, "trainer": {"devices": 1, "accumulate_grad_batches": 1}})
    assert config_drift(before, same) == {}
    same.data.batch_size = 16
    assert config_drift(before, same) == {"trainer.accumulate_grad_batches": "2 -> 1"}


# --- a resume that fails ------------------------------------------------------------------------------------------


class BoomError(Exception):
    pass


FAILING = ("Record", "setup", "on_train_start", "training_step")


def test_a_resume_that_fails_before_its_first_step_leaves_the_run_as_it_was(
    store: Any, recorded: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from lightning_modules.task.supervised import Supervised
    from lightning_modules.tracking.record import Record

    store.client.set_tag(recorded.info.run_id, "touchstone.error", "an earlier one")
    store.client.set_terminated(recorded.info.run_id, "KILLED", 1234567890123)
    before = everything(store, recorded.info.run_id)

    def fail(*_: Any, **__: Any) -> None:
        raise BoomError

    for where in FAILING:
        owner, name = (Record, "_dataset") if where == "Record" else (Supervised, where)
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, fail)
            with pytest.raises(BoomError):
                resume(recorded.info.run_id, "trainer.max_epochs=4")
        assert everything(store, recorded.info.run_id) == before, where
        assert "the run is unchanged (KILLED)" in capsys.readouterr().err, where


def test_a_resume_that_fails_after_its_first_step_is_recorded(
    store: Any, recorded: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lightning_modules.task.supervised import Supervised

    def fail(self: Supervised) -> None:
        raise BoomError

    monkeypatch.setattr(Supervised, "on_validation_epoch_start", fail)
    with pytest.raises(BoomError):
        resume(recorded.info.run_id, "trainer.max_epochs=4")
    after = store.client.get_run(recorded.info.run_id)
    assert (after.info.status, after.data.tags["touchstone.error"]) == ("FAILED", "BoomError: ")


# --- schedules ----------------------------------------------------------------------------------------------------

CONTINUES = "8 steps are planned instead of 4; {} continues from its saved state, with the learning rate "
REPLANNED = "scheduler: re-planned over 8 steps instead of 4; the learning rate goes from "
EXTENDED = [
    ("one_cycle", REPLANNED),
    ("step scheduler.every=1", CONTINUES.format("StepLR")),
    pytest.param("cosine", f"{REPLANNED}0 to ", marks=pytest.mark.slow),
    pytest.param("scaled scheduler.warmup_epochs=1", f"{REPLANNED}0 to ", marks=pytest.mark.slow),
    pytest.param("plateau", CONTINUES.format("ReduceLROnPlateau"), marks=pytest.mark.slow),
]


@pytest.mark.slow
@pytest.mark.parametrize(("scheduler", "message"), EXTENDED)
def test_what_a_longer_training_means_for_each_schedule(
    store: Any,
    train: Callable[..., Any],
    tmp_path: Path,
    scheduler: str,
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = (
        *TABLE, f"data.path={write_table(tmp_path / 'a.csv')}", "data.batch_size=32", f"scheduler={scheduler.split()[0]}",
        *scheduler.split()[1:],
    )  # fmt: skip
    short = train(*words, quick=False)
    resume(short.info.run_id, "trainer.max_epochs=4")
    assert message in capsys.readouterr().out
    long = train(*words, "trainer.max_epochs=4", quick=False)
    assert "scheduler:" not in capsys.readouterr().out, "nothing is re-planned in a run of its own"
    assert store.client.get_run(short.info.run_id).info.status == "FINISHED"
    resumed, whole = (read_checkpoint(artifact_path(store, r, "checkpoints/last.ckpt")) for r in (short, long))
    rates = [[g["lr"] for g in ckpt["optimizer_states"][0]["param_groups"]] for ckpt in (resumed, whole)]
    assert rates[0] == rates[1] and resumed["global_step"] == whole["global_step"] == 8


def test_the_rate_of_the_next_step_is_that_of_the_new_plan() -> None:
    from lightning_modules.optimizer.lr_schedules import cosine, one_cycle, replan_on_resume

    for schedule in (cosine, one_cycle):
        weight = torch.nn.Parameter(torch.zeros(1))
        old, whole = (torch.optim.SGD([weight], lr=1.0, momentum=0.9) for _ in range(2))
        short, long = (schedule(o, total_steps=n, steps_per_epoch=5)["scheduler"] for o, n in ((old, 10), (whole, 20)))
        expected = []
        for number in range(20):
            expected.append(whole.param_groups[0]["lr"])
            whole.step()
            long.step()
            if number < 9:
                old.step()
                short.step()
        new = torch.optim.SGD([weight], lr=1.0, momentum=0.9)
        resumed = schedule(new, total_steps=20, steps_per_epoch=5)["scheduler"]
        new.load_state_dict(old.state_dict())
        resumed.load_state_dict(short.state_dict())
        assert "re-planned over 20 steps instead of 10" in str(replan_on_resume(resumed, 20, 10))
        rates = []
        for _ in range(9, 20):
            rates.append(new.param_groups[0]["lr"])
            new.step()
            resumed.step()
        assert rates == expected[9:], schedule
        assert replan_on_resume(resumed, 20, 20) is None
