import os
import subprocess
import sys
from pathlib import Path

import pytest

from lightning_modules.tracking.provenance import (
    command_line,
    git_state,
    hardware,
    mask_secrets,
    package_versions,
)


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


def test_untracked_secrets_large_and_binary_files_stay_out_and_are_named(repo: Path) -> None:
    for name in (".env", ".env.local", "server.pem", "my.key", "id_rsa", "aws-credentials.json"):
        (repo / name).write_text("hush-hush\n")
    (repo / "big.csv").write_text("1,2,3\n" * 300_000)
    (repo / "weights.bin").write_bytes(bytes(100))
    (repo / "id_map.py").write_text("code = True\n")
    state = git_state(repo)
    assert "hush-hush" not in state.diff and "big.csv" not in state.diff and "weights.bin" not in state.diff
    assert "code = True" in state.diff
    for named in (
        ".env (looks",
        ".env.local",
        "server.pem",
        "my.key",
        "id_rsa",
        "aws-",
        "1.8 MB",
        "(binary)",
    ):
        assert named in state.note


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
