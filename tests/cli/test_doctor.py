"""`touchstone doctor`: what is there, what is missing and how to get it; only what every run needs is broken."""

from pathlib import Path
from typing import Any

import pytest

from lightning_modules.cli import doctor


def test_it_prints_versions_devices_and_the_store(store: Any, capsys: pytest.CaptureFixture[str]) -> None:
    for check in (doctor.check_versions(), doctor.check_devices(), doctor.check_store(None), doctor.check_extras()):
        for what, text, fine in check:
            assert fine, text
            print(what, text)
    said = capsys.readouterr().out
    for line in ("versions python 3.", "devices ", "threads ", f"store {store.uri} (1 experiments)", "disk "):
        assert f"\n{line}" in f"\n{said}"


@pytest.mark.slow
def test_data_sets_are_found_or_named_with_what_gets_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TOUCHSTONE_DATA", str(tmp_path))
    (_, found, _), (_, missing, _) = doctor.check_data_sets()
    names = found.rpartition(": ")[2].split(", ")
    assert found.startswith(f"in {tmp_path}: ") and {"digits", "mnist1d"} <= set(names) and "mnist" not in names
    without, _, downloads = missing.removeprefix("not found: ").partition("; ")
    assert {"mnist", "movielens", "ucr"} <= set(without.split(", "))
    assert "data.download=true downloads bbc_news, cifar10, cifar100" in downloads


@pytest.mark.parametrize(
    "uri", ["https://ann:secret@127.0.0.1:9", "sqlite:///{}/a-file/mlflow.db", "sqlite:///{}/a-file"]
)
def test_a_store_that_cannot_be_used_is_broken_and_its_password_is_not_printed(uri: str, tmp_path: Path) -> None:
    (tmp_path / "a-file").write_text("no database")
    found = list(doctor.check_store(uri.format(tmp_path)))
    assert not all(fine for *_, fine in found)
    assert "secret" not in str(found)


def test_a_requirement_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = ["torch>=99", "no-such-package>=1", "rich>=1", 'no-such-extra>=2; extra == "some"']
    monkeypatch.setattr(doctor, "requires", lambda _: wanted)
    missing = doctor.missing_requirements()
    assert missing[0].startswith("torch>=99 (") and missing[1:] == ["no-such-package>=1"]
    assert doctor.missing_requirements("some") == ["no-such-extra>=2"]
    assert not all(fine for *_, fine in doctor.check_versions())


def test_what_is_broken_ends_with_exit_code_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a-file").write_text("no database")
    monkeypatch.setattr(doctor, "check_data_sets", lambda: iter(()))  # seconds
    with pytest.raises(SystemExit, match="1"):
        doctor.main([f"tracking.uri=sqlite:///{tmp_path}/a-file"])
    assert capsys.readouterr().err.strip() == "broken: store"
