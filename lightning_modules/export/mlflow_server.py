"""Runs MLflow's scoring server for a recorded model on this machine."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.request import urlopen

from lightning_modules.config.errors import UserError
from lightning_modules.config.project import PACKAGE
from lightning_modules.config.signals import signals_as_exceptions

_START_SECONDS = 120


def serve(name: str, folder: Path, tracking_uri: str, port: int) -> int:
    """Run ``mlflow models serve`` in the foreground until it exits or a signal stops it; return its exit code.

    Args:
        name, folder: the model's name in messages, and the folder with its files.
    """
    with signals_as_exceptions(), tempfile.TemporaryDirectory() as place:
        link = Path(place) / "models"  # MLflow reads a path as a URI, which fails for '?', '#' or '%41'
        link.symlink_to(folder.absolute().parent)
        with running_server(str(link / folder.name), tracking_uri, port) as process:
            print(f"\n{name} is served at http://127.0.0.1:{port}/invocations (Ctrl-C stops it)\n", flush=True)
            return int(process.wait())


@contextmanager
def running_server(model_uri: str, tracking_uri: str, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """MLflow's server with one worker, in its own process group, with this package and the tracking store.

    Raises UserError if it exits or does not respond in time.
    """
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", model_uri, "-h", "127.0.0.1", "-p", str(port)]
    modules = os.pathsep.join(filter(None, (str(PACKAGE.parent), os.environ.get("PYTHONPATH"))))
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"  # MLflow calls uvicorn by its name
    environment = {**os.environ, "MLFLOW_TRACKING_URI": tracking_uri, "PYTHONPATH": modules, "PATH": path}
    command += ["--env-manager", "local", "-w", "1"]
    process = subprocess.Popen(command, env=environment, start_new_session=True)
    try:
        _wait_until_ready(process, port)
        yield process
    finally:
        try:
            os.killpg(process.pid, signal.SIGTERM)  # the server and its workers
            process.wait(10)
        except (ProcessLookupError, subprocess.TimeoutExpired):
            process.kill()
            process.wait()


def _wait_until_ready(process: subprocess.Popen[bytes], port: int) -> None:
    end = time.monotonic() + _START_SECONDS
    while time.monotonic() < end and process.poll() is None:
        try:
            with urlopen(f"http://127.0.0.1:{port}/ping", timeout=5) as answer:
                if answer.status == 200:
                    return
        except OSError:
            time.sleep(0.3)
    reason = f"no response within {_START_SECONDS} s"
    if process.poll() is not None:
        reason = f"exit code {process.returncode}; its output is above"
    raise UserError(f"mlflow models serve failed: {reason}")
