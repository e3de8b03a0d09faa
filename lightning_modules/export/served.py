"""How long a served model takes to answer over HTTP on this machine."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import Request, urlopen

import numpy as np

from lightning_modules.errors import UserError
from lightning_modules.export.latency import Percentiles, percentiles


@contextmanager
def serving(model_uri: str, tracking_uri: str, patience_s: float = 120.0) -> Iterator[str]:
    """Run ``mlflow models serve`` on a free port of 127.0.0.1 with one worker; yield its address.

    Raises UserError with what the server said where it ends, or does not answer in time.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", model_uri, "-h", "127.0.0.1", "-p", str(port)]
    root = str(Path(__file__).resolve().parents[2])
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"  # MLflow calls uvicorn by its name
    environment = {**os.environ, "MLFLOW_TRACKING_URI": tracking_uri, "PYTHONPATH": root, "PATH": path}
    process = subprocess.Popen(
        [*command, "--env-manager", "local", "-w", "1"], env=environment,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip
    address = f"http://127.0.0.1:{port}"
    try:
        _wait(process, address, patience_s)
        yield address
    finally:
        _end(process)


def _wait(process: Any, address: str, patience_s: float) -> None:
    end = time.monotonic() + patience_s
    while time.monotonic() < end and process.poll() is None:
        try:
            with urlopen(f"{address}/ping", timeout=5) as answer:
                if answer.status == 200:
                    return
        except (URLError, OSError):
            time.sleep(0.3)
    said = "it does not answer"
    if process.poll() is not None:
        said = process.stdout.read().decode(errors="replace")[-1000:]
    raise UserError(f"mlflow models serve failed: {said}")


def _end(process: Any) -> None:
    """End the server with its workers, which are of its own process group."""
    import signal

    try:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(10)
    except (ProcessLookupError, subprocess.TimeoutExpired):
        process.kill()
        process.wait()
    process.stdout.close()


def ask(address: str, x: np.ndarray) -> np.ndarray:
    """The served model's predictions for raw samples [B, *input_shape]."""
    body = json.dumps({"inputs": x.tolist()}).encode()
    request = Request(f"{address}/invocations", body, {"Content-Type": "application/json"})
    with urlopen(request, timeout=60) as answer:
        return np.array(json.load(answer)["predictions"])


def served_latency(address: str, x: np.ndarray, calls: int = 100) -> dict[str, Percentiles]:
    """Latency of a request with one sample (``single``) and with all of `x` (``batch``), with JSON and HTTP on loopback."""
    return percentiles({"single": lambda: ask(address, x[:1]), "batch": lambda: ask(address, x)}, calls, seconds=10.0)
