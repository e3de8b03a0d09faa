"""The progress bar and the summary of the layers, as a terminal of 80 columns shows them."""

import re
import time
from collections.abc import Callable
from typing import Any

import pytest

from lightning_modules.cli.progress_bar import CompactProgressBar
from lightning_modules.config.command_line import compose_run
from lightning_modules.run.run import run

BAR = (
    "tracking=none", "trainer.max_epochs=2", "data.per_class=30", "data.batch_size=32", "model=mlp",
    "callbacks.progress.refresh_rate=100000",
)  # fmt: skip
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[[], list[str]]:
    """What has been drawn on a terminal of 80 columns, line by line."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "80")
    return lambda: [ESCAPES.sub("", line).rstrip() for line in re.split(r"[\r\n]+", capsys.readouterr().out)]


@pytest.mark.parametrize("steps_per_call", [10, 1], ids=["fast loop", "Lightning's loop"])
def test_each_batch_each_epoch_and_the_time_left_are_on_one_line(
    terminal: Callable[[], list[str]], steps_per_call: int
) -> None:
    run(compose_run([*BAR, f"steps_per_call={steps_per_call}"]))
    lines = terminal()
    bars = [line for line in lines if line.startswith("Epoch")]
    total = bars[0].split("/")[2].split()[0]
    for epoch in (1, 2):
        of_epoch = [line for line in bars if line.startswith(f"Epoch {epoch}/2 ")]
        counted = [int(match[1]) for line in of_epoch if (match := re.search(rf" (\d+)/{total} ", line))]
        assert sorted(set(counted)) == list(range(int(total) + 1)) and counted == sorted(counted)
    assert re.search(r" 0:00:\d\d left val/loss \d\.\d{3}  val/accuracy \d\.\d{3}$", bars[-3])
    assert max(map(len, bars)) <= 80
    assert not [line for line in lines if "FLOPs" in line]
    assert any(re.fullmatch(r"│ model +│ MLP +│ +[\d.]+ K │", line) for line in lines)


def test_without_a_terminal_no_bar_is_in_the_log(capsys: pytest.CaptureFixture[str]) -> None:
    run(compose_run([*BAR, "callbacks.summary=null", "trainer.max_epochs=1"]))
    assert "Epoch" not in capsys.readouterr().out


def test_a_batch_costs_next_to_nothing_between_two_refreshes() -> None:
    bar = CompactProgressBar(refresh_rate=1)
    bar._drawn = time.monotonic()
    began = time.process_time()
    for _ in range(1000):
        bar.count_batch()
    assert time.process_time() - began < 0.02  # 20 us of 1000 us that the smallest step takes


@pytest.mark.slow
def test_ranks_print_no_lines_of_lightning(command: Callable[..., Any]) -> None:
    words = ("trainer=ddp", "trainer.accelerator=cpu", "strategy.start_method=popen", "data.per_class=10", "model=mlp")
    done = command("train.py", *words, "trainer.max_epochs=1", "tracking=none")
    assert done.returncode == 0 and "test/accuracy" in done.stdout
    assert not re.search("GLOBAL_RANK|distributed_backend|processes registered", done.stdout + done.stderr)
