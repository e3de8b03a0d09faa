"""Runs MLflow's scoring server for a recorded model on this machine, and measures its latency."""

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import URLError
from urllib.request import Request, urlopen

import numpy as np

from lightning_modules.config.errors import UserError
from lightning_modules.config.project import PROJECT_ROOT
from lightning_modules.config.signals import signals_as_exceptions
from lightning_modules.export.verification import LatencyPercentiles, latency_percentiles


@contextmanager
def running_server(model_uri: str, tracking_uri: str, patience_s: float = 120.0) -> Iterator[str]:
    """Run ``mlflow models serve`` on a free port of 127.0.0.1 with one worker; yield its address.

    Raises UserError with the server's output if it exits or does not respond in time.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = _start(model_uri, tracking_uri, port, subprocess.PIPE)
    try:
        yield _wait_until_ready(process, port, patience_s)
    finally:
        _stop(process)


def serve(name: str, folder: Path, tracking_uri: str, port: int) -> int:
    """Run ``mlflow models serve`` in the foreground until it exits or a signal stops it; return its exit code.

    Args:
        name, folder: the model's name in messages, and the folder with its files.
    """
    with signals_as_exceptions(), tempfile.TemporaryDirectory() as place:
        link = Path(place) / "models"  # MLflow reads a path as a URI, which fails for '?', '#' or '%41'
        link.symlink_to(folder.absolute().parent)
        process = _start(str(link / folder.name), tracking_uri, port, None)
        try:
            address = _wait_until_ready(process, port)
            print(f"\n{name} is served at {address}/invocations (Ctrl-C stops it)\n", flush=True)
            return int(process.wait())
        finally:
            _stop(process)


def _start(model_uri: str, tracking_uri: str, port: int, output: int | None) -> subprocess.Popen[bytes]:
    """Start MLflow's server in its own process group, with this package and the tracking store."""
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", model_uri, "-h", "127.0.0.1", "-p", str(port)]
    root = str(PROJECT_ROOT)
    modules = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"  # MLflow calls uvicorn by its name
    environment = {**os.environ, "MLFLOW_TRACKING_URI": tracking_uri, "PYTHONPATH": modules, "PATH": path}
    return subprocess.Popen(
        [*command, "--env-manager", "local", "-w", "1"], env=environment,
        stdout=output, stderr=output and subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip


def _wait_until_ready(process: subprocess.Popen[bytes], port: int, patience_s: float = 120.0) -> str:
    """Wait for the server and return its address. Raises UserError if it exits or does not respond in time."""
    address = f"http://127.0.0.1:{port}"
    end = time.monotonic() + patience_s
    while time.monotonic() < end and process.poll() is None:
        try:
            with urlopen(f"{address}/ping", timeout=5) as answer:
                if answer.status == 200:
                    return address
        except (URLError, OSError):
            time.sleep(0.3)
    said = f"no response within {patience_s:.0f} s"
    if process.poll() is not None:
        said = f"exit code {process.returncode}; its output is above"
    if process.poll() is not None and process.stdout:
        said = process.stdout.read().decode(errors="replace")[-1000:]
    raise UserError(f"mlflow models serve failed: {said}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Stop the server and its workers, which share its process group."""
    import signal

    try:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(10)
    except (ProcessLookupError, subprocess.TimeoutExpired):
        process.kill()
        process.wait()
    if process.stdout:
        process.stdout.close()


def query_server(address: str, x: np.ndarray) -> np.ndarray:
    """The served model's predictions for raw samples [B, *input_shape]."""
    body = json.dumps({"inputs": x.tolist()}).encode()
    request = Request(f"{address}/invocations", body, {"Content-Type": "application/json"})
    with urlopen(request, timeout=60) as answer:
        return np.array(json.load(answer)["predictions"])


def server_latency(address: str, x: np.ndarray, calls: int = 100) -> dict[str, LatencyPercentiles]:
    """Latency of HTTP requests on loopback with one sample (``single``) and with all of `x` (``batch``)."""
    return latency_percentiles(
        {"single": lambda: query_server(address, x[:1]), "batch": lambda: query_server(address, x)}, calls, seconds=10.0
    )
