import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from lightning_modules.tracking.provenance import (
    command_line,
    git_state,
    hardware,
    package_versions,
)
from lightning_modules.tracking.secrets import mask_secrets


def git(folder: Path, *arguments: str) -> str:
    who = ["-c", "user.name=Ann", "-c", "user.email=ann@example.org", "-c", "init.defaultBranch=main"]
    command = ["git", *who, *arguments]
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    folder = tmp_path / "a repo"
    folder.mkdir()
    git(folder, "init")
    (folder / "train.py").write_text("print('old')\n")
    (folder / ".gitignore").write_text("ignored*\n")
    git(folder, "add", ".")
    git(folder, "commit", "-m", "first")
    return folder


def test_a_clean_repository_has_its_commit_and_no_diff(repo: Path) -> None:
    git(repo, "remote", "add", "origin", "https://ann:pa55@example.org/ann/repo.git")
    state = git_state(repo)
    assert (state.commit, state.branch) == (git(repo, "rev-parse", "HEAD").strip(), "main")
    assert (state.dirty, state.diff, state.note) == (False, "", "")
    assert state.remote == "https://example.org/ann/repo.git"


def test_the_diff_rebuilds_changed_staged_new_and_deleted_files(repo: Path, tmp_path: Path) -> None:
    (repo / "old.py").write_text("x = 1\n")
    git(repo, "add", ".")
    git(repo, "commit", "-m", "second")
    (repo / "train.py").write_bytes(b"print('new')\r\n# caf\xe9\n")
    (repo / "old.py").unlink()
    (repo / "sub").mkdir()
    (repo / "sub" / "new file.py").write_text("y = 'ü'\n")
    (repo / "ignored-but-staged.py").write_text("z = 3\n")
    git(repo, "add", "--force", "ignored-but-staged.py")
    (repo / "ignored.txt").write_text("not recorded\n")
    status = git(repo, "status", "--porcelain")
    objects = sorted((repo / ".git").rglob("*"))
    state = git_state(repo / "sub")
    assert state.dirty and state.commit and not state.note
    assert git(repo, "status", "--porcelain") == status
    assert sorted((repo / ".git").rglob("*")) == objects
    git(tmp_path, "clone", str(repo), "copy")
    with (tmp_path / "diff").open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        file.write(state.diff)
    git(tmp_path / "copy", "apply", str(tmp_path / "diff"))
    tracked = {"train.py", "sub/new file.py", "ignored-but-staged.py", ".gitignore"}
    rebuilt = {
        str(p.relative_to(tmp_path / "copy")): p.read_bytes()
        for p in (tmp_path / "copy").rglob("*")
        if p.is_file() and ".git" not in p.relative_to(tmp_path / "copy").parts
    }
    assert rebuilt == {name: (repo / name).read_bytes() for name in tracked}


SECRET_FILES = (
    "secrets.yaml", ".pgpass", ".htpasswd", "password.txt", "token", "api_key", "kubeconfig", "service-account.json",
    "prod.env", ".netrc", "id_rsa", "credentials.json", ".env", ".env.local", ".npmrc", ".pypirc", "server.pem", "my.key",
    "hf_token.yaml", "keys/passwords/list.yaml", "aws-credentials.sh", "data.json", "notes.txt", "settings.cfg", "run.sh",
)  # fmt: skip
AWS_KEY = "AKIA" + "Q7RTZ5XW2LMNB4VC"


def test_untracked_files_that_look_like_secrets_are_not_in_the_diff(repo: Path) -> None:
    for name in SECRET_FILES:
        (repo / name).parent.mkdir(parents=True, exist_ok=True)
        (repo / name).write_text("api_key = hush-hush-4711\n")
    (repo / "token_ids.py").write_text("pad_token = '<pad>'\n")
    (repo / "claim.yaml").write_text(f"content: {'4e1f' * 16}\n")
    state = git_state(repo)
    assert "hush-hush" not in state.diff
    assert [line for line in state.diff.splitlines() if line.startswith("+++")] == [
        "+++ b/claim.yaml", "+++ b/token_ids.py",
    ]  # fmt: skip
    assert "5 more" in state.note


def test_each_untracked_file_that_stays_out_is_named_with_the_reason_secrets_first(repo: Path) -> None:
    (repo / "upload.py").write_text(f"import boto3\n\nKEY = '{AWS_KEY}'\n")
    (repo / "secrets.yaml").write_text("a: 1\n")
    (repo / "a.csv").write_text("1,2,3\n")
    (repo / "big.py").write_text("x = 1\n" * 60_000)
    (repo / "binary.py").write_bytes(bytes(100))
    state = git_state(repo)
    assert (state.diff, state.note) == (
        "",
        "left out of the diff: secrets.yaml (looks like a secret), upload.py (line 3 looks like a secret), "
        "a.csv (neither code nor config), big.py (0.4 MB), binary.py (binary)",
    )


def test_changes_of_tracked_files_that_look_like_secrets_are_named_by_line(repo: Path) -> None:
    (repo / "old conf.yaml").write_text("user: ann\npassword: hush-hush-4711\nhost: a\n")
    git(repo, "add", ".")
    git(repo, "commit", "-m", "second")
    (repo / "old conf.yaml").write_text("user: ann\nhost: b\n")
    (repo / "train.py").write_text(f"print('new')\n# more\nKEY = '{AWS_KEY}'\n")
    (repo / "new.py").write_text("x = 1\n")
    state = git_state(repo)
    assert state.suspicious == ("old conf.yaml:2", "train.py:3")
    assert state.note == "the diff has lines that look like secrets: old conf.yaml:2, train.py:3"


def test_a_run_whose_diff_looks_like_a_secret_warns_without_the_value(
    repo: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from lightning_modules.tracking import record

    (repo / "train.py").write_text(f"KEY = '{AWS_KEY}'\n")
    monkeypatch.setattr(record, "code_folder", lambda: repo)
    record.Record._code(SimpleNamespace(text=lambda *_: None))  # type: ignore[arg-type]
    warning = capsys.readouterr().err
    assert warning.startswith("warning: code/diff.patch of this run has lines that look like secrets: train.py:1.")
    assert AWS_KEY not in warning


def test_a_long_diff_is_searched_up_to_a_limit(repo: Path) -> None:
    (repo / "train.py").write_text("x = 1\n" * 5000 + f"KEY = '{AWS_KEY}'\n")
    assert git_state(repo).suspicious == ("train.py and later files: not searched after 5000 lines",)


def test_it_works_during_a_merge_and_inside_a_hook(repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    git(repo, "checkout", "-b", "other")
    (repo / "train.py").write_text("print('other')\n")
    git(repo, "commit", "-am", "other")
    git(repo, "checkout", "main")
    (repo / "train.py").write_text("print('main')\n")
    git(repo, "commit", "-am", "main")
    with pytest.raises(subprocess.CalledProcessError):
        git(repo, "merge", "other")
    monkeypatch.setenv("GIT_DIR", "/nowhere")
    monkeypatch.setenv("GIT_INDEX_FILE", "/nowhere/index")
    state = git_state(repo)
    assert state.dirty and "<<<<<<<" in state.diff


def test_a_repository_without_a_commit_says_so_and_holds_every_file(tmp_path: Path) -> None:
    git(tmp_path, "init")
    (tmp_path / "train.py").write_text("first = True\n")
    (tmp_path / "staged.py").write_text("staged = True\n")
    git(tmp_path, "add", "staged.py")
    state = git_state(tmp_path)
    assert state.commit is None and state.dirty and "no commit" in state.note
    assert "first = True" in state.diff and "staged = True" in state.diff


def test_no_repository_and_no_git_are_notes_not_errors(
    tmp_path: Path, repo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "plain").mkdir()
    outside = git_state(tmp_path / "plain")
    assert outside.commit is None and "not a git repository" in outside.note
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    without = git_state(repo)
    assert without.commit is None and "git is not installed" in without.note


def test_secrets_are_masked_at_any_depth_and_hyper_parameters_are_not() -> None:
    config = {
        "tracking": {"uri": "http://ann:pa55@host:5000/x", "password": "pa55", "api_key": ["pa55"]},
        "hf_token": "pa55",
        "model": {"tokenizer": "bert", "max_tokens": 128, "token_dropout": 0.1, "name": "a/b@c"},
        "overrides": ["model.lr=0.1", "tracking.secret=pa55"],
        "AWS_SECRET_ACCESS_KEY": None,
    }
    masked = mask_secrets(config)
    assert "pa55" not in str(masked)
    assert masked["tracking"] == {"uri": "http://***@host:5000/x", "password": "***", "api_key": "***"}
    assert masked["model"] == config["model"]
    assert masked["overrides"] == ["model.lr=0.1", "tracking.secret=***"]
    assert masked["AWS_SECRET_ACCESS_KEY"] is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("postgresql://ann:p@55/w@db/x and rest", "postgresql://***@55/w@db/x and rest"),
        ("postgresql://ann:p@55@db/x", "postgresql://***@db/x"),
        ("+a.db_password='two words' lr=0.1", "+a.db_password=*** lr=0.1"),
        ("login={password: pa55, user: ann}", "login={password: ***, user: ann}"),
        ("sqlite:////home/ann@work/mlflow.db", "sqlite:////home/ann@work/mlflow.db"),
        ("model.tokenizer=bert max_tokens=5", "model.tokenizer=bert max_tokens=5"),
    ],
)
def test_secrets_in_a_text_are_masked(text: str, expected: str) -> None:
    assert mask_secrets(text) == expected


N = 1_000_000
LONG = {
    "a" * N: "a" * N,
    "token" * (N // 5): "token" * (N // 5),
    "token" * (N // 5) + "=x": "token" * (N // 5) + "=***",
    "password " * (N // 9): "password " * (N // 9),
    "token" + " " * N + "x": "token" + " " * N + "x",
    "token:" + " " * N + "x": "token:" + " " * N + "***",
    "a=" * (N // 2): "a=" * (N // 2),
    "token='" * (N // 7): "token=***" * (N // 14 + 1),
    "x://" + "a" * N: "x://" + "a" * N,
    "x://" * (N // 4) + "@": "x://" * (N // 4 - 1) + "x://***@",
}


@pytest.mark.parametrize("text", LONG, ids=lambda text: text[:12])
def test_a_text_of_a_million_characters_is_masked_in_linear_time(text: str) -> None:
    masked = mask_secrets(text)
    assert masked == LONG[text]
    assert mask_secrets({"name": text})["name"] == masked


def test_the_command_line_can_be_pasted_and_holds_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = [
        "scripts/train.py",
        "lr=0.1,0.2",
        "name=two words",
        "x.password=pa55 two",
        "--api-key",
        "pa55",
    ]
    monkeypatch.setattr(sys, "argv", [*arguments, "--token=pa55", "uri=http://a:pa55@h", "optimizer.lr=1"])
    line = command_line()
    assert "pa55" not in line
    assert line.endswith(
        "scripts/train.py lr=0.1,0.2 'name=two words' 'x.password=***' --api-key '***' '--token=***' "
        "'uri=http://***@h' optimizer.lr=1"
    )


def test_packages_and_hardware_are_those_of_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert package_versions()["torch"] == torch.__version__.split("+")[0]
    found = hardware()
    assert found["torch_threads_intra"] == torch.get_num_threads() and found["omp_num_threads"] == "1"
    assert found["cores_logical"] >= found["cores_allowed"] >= 1 and found["memory_bytes"] > 2**27
    assert found["cpu"] and found["python"] == ".".join(map(str, sys.version_info[:3]))
    assert len(found["gpus"]) >= (1 if os.path.exists("/dev/nvidia0") else 0)  # noqa: PTH110
    assert not torch.cuda.is_initialized()
