"""Provenance of a run: git state, packages, hardware and command line. Read-only.

Longer than most: the state of code, packages and machine is one thing to the reader of a record.
"""

from __future__ import annotations

import contextlib
import functools
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeGuard

from lightning_modules.tracking.secrets import (
    HIDDEN,
    mask_secrets,
    names_a_secret,
    secret_lines,
    secret_name,
    secrets_in_diff,
)

# Files of code and config. Other untracked files may contain data or secrets, and a rerun does not need them.
CODE_SUFFIXES = (
    ".py", ".pyi", ".yaml", ".yml", ".toml", ".cfg", ".ini", ".sh", ".md", ".c", ".cc", ".cpp", ".cu", ".cuh", ".h", ".hpp",
)  # fmt: skip
MAX_UNTRACKED_BYTES = 256_000
# Git variables of the caller (e.g. in a hook) would point to another repository or index.
_GIT_VARIABLES = tuple(
    f"GIT_{name}" for name in ["DIR", "WORK_TREE", "INDEX_FILE", "PREFIX", "COMMON_DIR", "OBJECT_DIRECTORY"]
)


@dataclass(frozen=True)
class GitState:
    """The code as it lay on the disk.

    `diff` applied to `commit` (without a commit: to an empty folder) by ``git apply`` gives the files back.
    Bytes that are no UTF-8 stand in it as surrogates: write it with ``errors="surrogateescape", newline=""``.
    `suspicious` lists FILE:LINE of tracked changes that look like secrets; the diff holds them.
    """

    commit: str | None
    branch: str | None
    dirty: bool
    diff: str
    remote: str | None
    note: str
    suspicious: tuple[str, ...] = ()


def repository_of(folder: Path) -> Path | None:
    """The root of the git repository that contains `folder`; None if there is none."""
    try:
        return _top_level(folder)
    except (OSError, subprocess.CalledProcessError):
        return None


def git_state(root: Path) -> GitState:
    """The state of the repository that contains `root`. Changes nothing there and raises nothing.

    The diff covers all that differs from HEAD, with the untracked code and config files that git does not ignore.
    Untracked files of other kinds, larger than 256 kB, binary, or that look like secrets by name or content stay out and
    are named in `note`.
    """
    try:
        top = _top_level(root)
        commit = _git_or_none(top, "rev-parse", "--verify", "--quiet", "HEAD")
        branch = _git_or_none(top, "symbolic-ref", "--quiet", "--short", "HEAD")
        remote = _git_or_none(top, "config", "--get", "remote.origin.url")
        diff, left_out, suspicious = _difference(top, commit)
    except FileNotFoundError:
        return GitState(None, None, False, "", None, "git is not installed: the code's version is not recorded")
    except (OSError, subprocess.CalledProcessError) as error:
        said = (getattr(error, "stderr", b"") or str(error).encode()).decode(errors="replace").strip()
        reason = said.splitlines()[0] if said else "git failed"
        return GitState(None, None, False, "", None, f"the code version is not recorded: {reason}")
    notes = [] if commit else ["the repository has no commit yet: the diff holds every file"]
    if left_out:
        more = f" and {len(left_out) - 20} more" if len(left_out) > 20 else ""
        notes.append("left out of the diff: " + ", ".join(left_out[:20]) + more)
    remote = re.sub(r"(://)[^/]*@", r"\1", remote) if remote else None
    if suspicious:
        notes.append("the diff has lines that look like secrets: " + ", ".join(suspicious[:20]))
    return GitState(commit, branch, bool(diff or left_out), diff, remote, "; ".join(notes), tuple(suspicious))


def _difference(top: Path, commit: str | None) -> tuple[str, list[str], list[str]]:
    """Diff the working tree against `commit` with a temporary index and object store.

    Returns the diff, what stays out of it, and where tracked changes look like secrets.
    """
    git_folder = top / _git(top, "rev-parse", "--git-common-dir").decode().strip()
    index = top / _git(top, "rev-parse", "--git-path", "index").decode().strip()
    with tempfile.TemporaryDirectory() as scratch:
        own = {
            "GIT_INDEX_FILE": f"{scratch}/index",
            "GIT_OBJECT_DIRECTORY": scratch,
            "GIT_ALTERNATE_OBJECT_DIRECTORIES": str(git_folder / "objects"),
            "GIT_LITERAL_PATHSPECS": "1",
        }
        if index.exists():  # with its file times, git need not read every file; by its own it knows which it must
            shutil.copy2(index, own["GIT_INDEX_FILE"])
        base = commit or _git(top, "hash-object", "-t", "tree", "-w", "--stdin", extra=own).decode().strip()
        staged = _git(top, "diff", "--cached", "--name-only", "--diff-filter=A", "-z", base, extra=own)
        _git(top, "read-tree", "--reset", base, extra=own)
        _git(top, "add", "--update", extra=own)
        untracked = _git(top, "ls-files", "--others", "--exclude-standard", "-z", extra=own)
        names = sorted({os.fsdecode(name) for name in (staged + untracked).split(b"\0") if name})
        reasons = {name: reason for name in names if (reason := _unfit(top, name))}
        fit = "\0".join(name for name in names if name not in reasons and (top / name).exists())
        chosen = ("--pathspec-from-file=-", "--pathspec-file-nul")
        plain = ("--no-color", "--no-ext-diff", "--no-textconv", "--src-prefix=a/", "--dst-prefix=b/")
        command = ("diff", "--cached", "--binary", "--full-index", *plain, base)
        tracked = diff = _git(top, *command, extra=own)
        if fit:
            _git(top, "add", "--force", *chosen, extra=own, stdin=os.fsencode(fit))
            diff = _git(top, *command, extra=own)
    suspicious = secrets_in_diff(tracked.decode("utf-8", "replace"))
    secrets_first = sorted(reasons.items(), key=lambda item: "secret" not in item[1])
    left_out = [f"{name} ({reason})" for name, reason in secrets_first]
    return diff.decode("utf-8", "surrogateescape"), left_out, suspicious


def _unfit(top: Path, name: str) -> str | None:
    """Why an untracked file is not recorded, or None."""
    path = top / name
    if secret_name(name):
        return "looks like a secret"
    if path.is_dir() and not path.is_symlink():
        return "a repository of its own"
    if path.suffix.lower() not in CODE_SUFFIXES:
        return "neither code nor config"
    if path.is_symlink() or not path.exists():
        return None
    try:
        if path.stat().st_size > MAX_UNTRACKED_BYTES:
            return f"{path.stat().st_size / 1e6:.1f} MB"
        content = path.read_bytes()
    except OSError as error:
        return str(error.strerror)
    if b"\0" in content[:8000]:  # git's own criterion
        return "binary"
    lines = secret_lines(content.decode("utf-8", "replace"), path.suffix.lower())
    return f"line {lines[0]} looks like a secret" if lines else None


def _git(folder: Path, *arguments: str, extra: Mapping[str, str] | None = None, stdin: bytes = b"") -> bytes:
    environment = {key: value for key, value in os.environ.items() if key not in _GIT_VARIABLES}
    environment |= {"LC_ALL": "C", "GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0", **(extra or {})}
    command = ["git", "-C", str(folder), "-c", "core.fsmonitor=false", *arguments]
    return subprocess.run(command, env=environment, input=stdin, capture_output=True, check=True).stdout


def is_commit(text: str | None) -> TypeGuard[str]:
    """Whether this is the full name of a commit: a store may hold anything, also what git takes for an option."""
    return re.fullmatch("[0-9a-f]{40,64}", text or "") is not None


def _top_level(folder: Path) -> Path:
    return Path(_git(folder, "rev-parse", "--show-toplevel").decode().strip())


def _git_or_none(folder: Path, *arguments: str) -> str | None:
    try:
        return _git(folder, *arguments).decode(errors="replace").strip() or None
    except subprocess.CalledProcessError:
        return None


@functools.cache
def package_versions() -> dict[str, str]:
    """Name -> version of every installed distribution, sorted by name (cached; do not modify)."""
    from importlib.metadata import distributions

    # `metadata` parses its file at each access; an incompletely removed distribution has no name
    found = {read["Name"]: read["Version"] for d in distributions() if (read := d.metadata) and read["Name"]}
    return dict(sorted(found.items(), key=lambda item: item[0].lower()))


def hardware() -> dict[str, object]:
    """The hardware of this machine. Does not initialize CUDA, so that the process can still fork."""
    import psutil
    import torch

    affinity = getattr(os, "sched_getaffinity", None)
    cpu = None
    with contextlib.suppress(OSError):
        cpu = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return {
        "platform": platform.platform(),
        "python": platform.python_version(),
        "cpu": cpu[1] if cpu else platform.processor() or platform.machine(),
        "cores_physical": psutil.cpu_count(logical=False),
        "cores_logical": psutil.cpu_count(),
        "cores_allowed": len(affinity(0)) if affinity else psutil.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "gpus": _gpus(),
        "cuda": torch.version.cuda,
        "cuda_visible_devices": os.environ.get("CUDA_VISIBLE_DEVICES"),
        "torch_threads_intra": torch.get_num_threads(),
        "torch_threads_inter": torch.get_num_interop_threads(),
        "omp_num_threads": os.environ.get("OMP_NUM_THREADS"),
    }


def _gpus() -> list[dict[str, object]]:
    query = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader,nounits"]
    try:
        listed = subprocess.run(query, capture_output=True, text=True, check=True, timeout=20).stdout
        rows = [[field.strip() for field in line.split(",")] for line in listed.splitlines() if line.strip()]
        return [{"name": name, "memory_bytes": int(float(mib) * 2**20), "driver": driver} for name, mib, driver in rows]
    except (OSError, subprocess.SubprocessError, ValueError):
        return []


def command_line() -> str:
    """This process's command line for a shell, with secrets as ``***``.

    Which trial of a sweep it is stands in the run's tags: without it, the command makes the same run alone.
    """
    program = Path(sys.argv[0])
    is_verb = program.parent == Path(__file__).resolve().parents[1] / "cli"
    start = ["touchstone", program.stem] if is_verb else [Path(sys.executable).name, sys.argv[0]]
    arguments = [*start, *(word for word in sys.argv[1:] if not word.startswith("sweep.job="))]
    masked = []
    for before, argument in zip(["", *arguments], arguments, strict=False):
        key, equals, _ = argument.partition("=")
        if before.startswith("-") and not argument.startswith("-") and names_a_secret(before):
            masked.append(HIDDEN)
        else:  # of a key that names a secret the whole value, with spaces and commas
            masked.append(f"{key}={HIDDEN}" if equals and names_a_secret(key) else mask_secrets(argument))
    return shlex.join(masked)
