"""The command ``touchstone VERB …``; ``scripts/VERB.py`` are aliases of its verbs."""

import importlib
import sys
from collections.abc import Callable
from pathlib import Path

from lightning_modules.cli import completion
from lightning_modules.cli.json_output import FLAG, print_json
from lightning_modules.config.command_line import run_cli
from lightning_modules.config.errors import UserError, suggest
from lightning_modules.config.project import enter_project

VERBS = {  # cli/VERB.py has `main()`
    "train": "train one model, or with -m a sweep, and record it in MLflow",
    "compare": "mean, spread and paired differences of runs over seeds",
    "reproduce": "run the claims of papers and judge them",
    "rerun": "run a recorded config again on its recorded code, and compare",
    "predict": "predict files with a recorded model",
    "generate": "continue a text with a recorded language model",
    "serve": "serve a recorded model over HTTP",
    "promote": "give a recorded model an alias in MLflow's registry: champion",
    "export": "write a recorded model for ONNX Runtime, torch.export or AOTInductor",
    "compress": "search the cheapest compression of a recorded run that keeps its accuracy",
    "data": "inspect, clean or split a data set",
    "augment": "write augmented copies of a training set",
    "store": "delete, keep, sync, relocate or prune recorded runs",
    "new": "write the folder of a project of your own",
    "doctor": "print what this installation has, and how to get what is missing",
    "ui": "open MLflow's pages on this store",
}


def main(verb: str | None = None) -> None:
    """Run a verb: the given one, or that which is named by the first argument of this process."""
    as_json = FLAG in sys.argv[1:]
    sys.argv[1:] = [word for word in sys.argv[1:] if word != FLAG]
    if verb is None:
        words = sys.argv[1:]
        if not words or words[0] in ("-h", "--help"):
            print(overview())
            sys.exit(0 if words else 2)
        if words[0] in ("--completion", "--complete"):
            enter_project()
            print(
                "\n".join(
                    [completion.SCRIPT] if words[0] == "--completion" else completion.complete(words[1], [*VERBS])
                )
            )
            sys.exit(0)
        verb = words[0]
        if verb not in VERBS:
            _run(verb, lambda: _refuse(verb), as_json)
        sys.argv = [sys.argv[0], *words[1:]]
    _run(verb, lambda: _start(verb), as_json)


def _run(verb: str, call: Callable[[], object], as_json: bool) -> None:
    if as_json:
        print_json(verb, lambda: run_cli(call))
    run_cli(call)


def _start(verb: str) -> object:
    module = importlib.import_module(f"lightning_modules.cli.{verb}")
    sys.argv[0] = str(Path(str(module.__file__)))  # ranks and trials are started by this file
    enter_project()
    return module.main()


def overview() -> str:
    """All verbs, a line each."""
    listed = "\n".join(f"  {verb:10} {text}" for verb, text in VERBS.items())
    more = f"Arguments and examples: touchstone VERB --help; as JSON: --json\n\n{completion.INSTALL}"
    return f"usage: touchstone VERB [ARGUMENT …]\n\n{listed}\n\n{more}"


def _refuse(verb: str) -> None:
    raise UserError(f"touchstone {verb}: unknown verb; {suggest(verb, VERBS)}")


if __name__ == "__main__":
    main()
