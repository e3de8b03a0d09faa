"""MLflow's pages in headless Chromium: what appears where. CI must have it: apt-get install chromium."""

import html
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from conftest import QUICK
from multirun import multirun

from lightning_modules.config.command_line import compose_run
from lightning_modules.run.run import run
from lightning_modules.tracking.store import open_store

pytestmark = pytest.mark.slow

Page = Callable[[str, str], list[str]]
BUDGET_MS = 20_000  # of the page's own clock


@pytest.fixture(scope="module")
def store(new_store: Callable[[], str]) -> Iterator[Any]:
    """A store with two runs that differ in learning rate and seed, and a sweep."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", new_store())
        for overrides in (["optimizer.lr=1e-2", "seed=1"], ["optimizer.lr=1e-3", "seed=2"]):
            run(compose_run([*QUICK, *overrides]))
        multirun([*QUICK, "sweep.name=rates", "optimizer.lr=1e-3,1e-2", "sweep.jobs=1", "study=paper"])
        yield open_store()


@pytest.fixture(scope="module")
def sweep(store: Any) -> Any:
    """The run of a sweep over two learning rates, in a study."""
    return next(iter(store.search_runs("tags.`touchstone.kind` = 'sweep'")))


@pytest.fixture(scope="module")
def page(store: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """Open a page of the store's UI until it shows a text; return the texts on it, in their order."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)("needs Chromium: apt-get install chromium")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    mlflow = [str(Path(sys.executable).with_name("mlflow")), "ui", "--workers", "1", "--port", str(port)]
    server = subprocess.Popen([*mlflow, "--backend-store-uri", store.uri], stderr=subprocess.DEVNULL)
    profile = tmp_path_factory.mktemp("chromium")
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--dump-dom", "--window-size=1400,900"]
    options += [f"--user-data-dir={profile}", f"--virtual-time-budget={BUDGET_MS}"]

    def texts(path: str, wanted: str) -> list[str]:
        command = [str(chromium), *options, f"http://127.0.0.1:{port}/#{path}"]
        for _ in range(4):  # on a busy machine the budget ends before the scripts are loaded; then they are cached
            shown = subprocess.run(command, capture_output=True, text=True, timeout=240, check=True).stdout
            body = re.sub(r"<(style|script|svg)\b.*?</\1>", "", shown, flags=re.DOTALL)
            found = [text.strip() for text in map(html.unescape, re.split(r"<[^>]*>", body)) if text.strip()]
            if wanted in found:
                return found
        pytest.fail(f"{path} does not show {wanted!r}: {found}")

    try:
        _wait_for(f"http://127.0.0.1:{port}/health")
        yield texts
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(60)


def _wait_for(address: str) -> None:
    for _ in range(240):
        try:
            with urllib.request.urlopen(address, timeout=5):
                return
        except OSError:
            time.sleep(0.5)
    pytest.fail(f"{address} does not answer")


def runs_of(store: Any) -> list[Any]:
    return list(store.search_runs(order="attributes.start_time ASC"))[:2]


def test_the_compare_page_opens_with_what_differs_against_a_score(store: Any, page: Page) -> None:
    ids = [one.info.run_id for one in runs_of(store)]
    texts = page(f"/compare-runs?runs={quote(json.dumps(ids))}&experiments={quote(json.dumps(['1']))}", "Clear All")
    chosen = texts[texts.index("Parameters:") : texts.index("Clear All")]
    params, metrics = chosen[1 : chosen.index("Metrics:")], chosen[chosen.index("Metrics:") + 1 :]
    assert params == ["optimizer.lr", "seed"]
    assert metrics[0] in ("val/accuracy", "val/loss", "train/loss")


def test_the_run_page_has_scores_then_commands_then_metrics_with_validation_before_training_before_test(
    store: Any, page: Page
) -> None:
    one = runs_of(store)[0]
    texts = page(f"/experiments/1/runs/{one.info.run_id}?workflowType=machine_learning", "About this run")
    description = texts[texts.index("Description") : texts.index("Metric")]
    scores = [text for text in description if text.startswith("test/")]
    assert scores[:2] == ["test/accuracy", "test/auroc"] and f"{one.data.metrics['test/accuracy']:.4g}" in description
    commands = [f"touchstone {verb} {one.info.run_id}" for verb in ("rerun", "serve")]
    assert description.index(scores[-1]) < description.index(commands[0]) < description.index(commands[1])
    metrics = texts[texts.index("Metric") :]
    first = [next(n for n, text in enumerate(metrics) if text.startswith(part)) for part in ("val/", "train/", "test/")]
    assert first == sorted(first)
    assert texts.index("Description") < texts.index("Metric") < texts.index("Parameter") < texts.index("About this run")


def test_the_charts_have_a_section_for_each_part_in_the_order_of_their_names(store: Any, page: Page) -> None:
    """The browser sorts and keeps the sections: no tag or name of ours moves them (docs/record.md)."""
    one = runs_of(store)[0]
    texts = page(f"/experiments/1/runs/{one.info.run_id}/model-metrics?workflowType=machine_learning", "Add section")
    sections = [texts[n - 1] for n, text in enumerate(texts) if re.fullmatch(r"\(\d+\)", text)]
    assert [name for name in sections if name in ("val", "train", "test")] == ["test", "train", "val"]


def test_the_page_of_a_sweep_has_its_best_then_its_runs_then_the_commands(sweep: Any, page: Page) -> None:
    texts = page(f"/experiments/1/runs/{sweep.info.run_id}?workflowType=machine_learning", "About this run")
    assert "paper/rates" in texts[: texts.index("Description")]
    description = texts[texts.index("Description") : texts.index("Metric")]
    order = ["2 runs: 2 finished.", "Best:", "#", "touchstone train -m sweep.resume=rates"]
    places = [description.index(text) for text in order]
    assert places == sorted(places)
    rows = [text for text in description[places[2] : places[3]] if text.startswith("lr=")]
    assert sorted(rows) == ["lr=0.001", "lr=0.01"]
    metrics = texts[texts.index("Metric") : texts.index("Parameter")]
    assert [name for name in metrics if name.startswith("val/accuracy")] == [
        "val/accuracy_mean", "val/accuracy_std", "val/accuracy_best",
    ]  # fmt: skip
    children = texts[texts.index("Child runs") : texts.index("Source")]
    assert {"lr=0.001", "lr=0.01"} <= set(children)
