"""``--json``: one JSON object on stdout, as docs/json.schema.json describes it, and everything else on stderr."""

import os
import sys
from collections.abc import Callable
from typing import NoReturn

FLAG, VERSION = "--json", 1


class NotAsExpected(SystemExit):
    """Exit with 1 although nothing failed, as with a verdict that is not the expected one; `result` is the verb's."""

    def __init__(self, result: object, code: int = 1) -> None:
        super().__init__(code)
        self.result = result


def print_json(verb: str, main: Callable[[], object]) -> NoReturn:
    """Run `main`, print its result or its error as JSON, and exit with the code that it has without ``--json``."""
    from pydantic_core import to_json

    with os.fdopen(os.dup(1), "wb") as stdout:
        os.dup2(2, 1)  # also for the processes that a verb starts
        code, result, error = 0, None, None
        try:
            result = main()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
            result, error = getattr(end, "result", None), _message(end, code)
        document = {"verb": verb, "version": VERSION, "ok": code == 0, "error": error, "result": result}
        stdout.write(to_json(document, inf_nan_mode="null", fallback=str) + b"\n")
    sys.exit(code)


def _message(end: SystemExit, code: int) -> str | None:
    """What `report_errors` has printed before it exited."""
    from lightning_modules.config.command_line import format_error

    cause = end.__context__
    if isinstance(cause, Exception):
        return format_error(cause) or f"{type(cause).__name__}: {cause}"
    return None if code == 0 else str(cause or f"exit code {code}") or type(cause).__name__
