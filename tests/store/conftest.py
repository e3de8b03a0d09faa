"""A real `mlflow server`, which a test may kill and start again; its database is SQLite or PostgreSQL."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests

ROOT = Path(__file__).resolve().parents[2]


class Server:
    """A server on 127.0.0.1 that hands artifacts through; `uri` is its address, the same after every start."""

    def __init__(self, database: str, folder: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.uri, self.database, self.folder = f"http://127.0.0.1:{self.port}", database, folder
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, patience_s: float = 120) -> "Server":
        command = [str(Path(sys.executable).with_name("mlflow")), "server", "--backend-store-uri", self.database]
        command += ["--serve-artifacts", "--artifacts-destination", str(self.folder / "served"), "--workers", "1"]
        command += ["--host", "127.0.0.1", "--port", str(self.port)]
        environment = {key: value for key, value in os.environ.items() if not key.startswith("MLFLOW_TRACKING")}
        environment["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"
        with (self.folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
        limit = time.monotonic() + patience_s
        while time.monotonic() < limit and self._process.poll() is None:
            try:
                requests.get(f"{self.uri}/health", timeout=5)
                return self
            except requests.RequestException:
                time.sleep(0.1)
        raise RuntimeError((self.folder / "server.log").read_text())

    def kill(self) -> None:
        """``kill -9`` of all its processes: no answer any more, to nobody."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None


@pytest.fixture(autouse=True)
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is kept for later lies in the test's folder, and so does what is kept where nothing else can be written."""
    monkeypatch.setenv("TOUCHSTONE_HOME", str(tmp_path / "project"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def new_server(
    tmp_path: Path, empty_database: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Server]]:
    """Start a server over a fresh SQLite file, or over the database of the address given."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")  # who is killed here does not come back at once
    servers: list[Server] = []

    def launch(database: str | None = None) -> Server:
        folder = tmp_path / f"server {len(servers)}"
        folder.mkdir()
        for file in empty_database.parent.glob("mlflow.db*"):
            shutil.copy(file, folder / file.name)
        servers.append(Server(database or f"sqlite:///{folder}/mlflow.db", folder))
        return servers[-1].start()

    yield launch
    for server in servers:
        server.kill()


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The address of an empty PostgreSQL database; its folder must be open to the account that it runs as."""
    folder = Path(tempfile.mkdtemp(prefix="touchstone-postgres-"))
    folder.chmod(0o755)
    script = str(ROOT / "tests" / "engines" / "postgres.sh")
    started = subprocess.run([script, "start", str(folder / "pg")], capture_output=True, text=True, check=False)
    assert started.returncode == 0, started.stderr
    yield started.stdout.strip()
    subprocess.run([script, "stop", str(folder / "pg")], check=True)
    shutil.rmtree(folder)
