"""A pytest plugin that writes the outcome of each test as a line of JSON, as soon as it is known."""

import json
import os
from pathlib import Path
from typing import Any


def pytest_runtest_logreport(report: Any) -> None:
    """Write a passed call, or whichever phase failed or was skipped."""
    if report.when != "call" and not (report.failed or report.skipped):
        return
    if "PYTEST_XDIST_WORKER" in os.environ:  # the controller hears of it too
        return
    text = str(report.longrepr).strip().splitlines()[-1][:200] if report.failed or report.skipped else ""
    status = "passed" if report.passed else "failed"  # nothing here may be skipped
    line = {
        "what": report.nodeid.partition("::")[2],
        "status": status,
        "value": f"{report.duration:.1f} s",
        "note": text,
    }
    with Path(os.environ["TOUCHSTONE_RESULTS"]).open("a") as file:
        file.write(json.dumps(line) + "\n")
