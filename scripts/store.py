"""Look after the store of runs: ``python scripts/store.py relocate|sync|prune [--dry-run]``."""

import argparse
from pathlib import Path

from lightning_modules.command_line import answer


def main() -> None:
    arguments = _parser().parse_args()
    {"relocate": _relocate, "sync": _sync, "prune": _prune}[arguments.verb](arguments)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Look after the store of runs.")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="relocate|sync|prune")
    relocate = verbs.add_parser("relocate", help="find the artifacts again after the project's folder has moved")
    relocate.add_argument(
        "--from", dest="old", type=Path, metavar="OLD", help="the old folder; found by itself if it is gone"
    )
    sync = verbs.add_parser(
        "sync", help="deliver what was kept while a server was gone, and push local runs to a server"
    )
    sync.add_argument(
        "--to", metavar="URI", help="push to this server; for --runs and --experiment also MLFLOW_TRACKING_URI"
    )
    sync.add_argument("--runs", nargs="+", metavar="RUN", help="ids or names; a sweep brings its runs along")
    sync.add_argument("--experiment", help="only the runs of this experiment")
    prune = verbs.add_parser("prune", help="delete deleted runs for good, with their files, and files of no run")
    for verb in (relocate, prune):
        verb.add_argument("--dry-run", action="store_true", help="only say what would be done")
    for verb in (relocate, sync, prune):
        verb.add_argument(
            "--store", metavar="URI", help="the local store; without it MLFLOW_TRACKING_URI or mlruns/mlflow.db"
        )
    return parser


def _relocate(arguments: argparse.Namespace) -> None:
    from lightning_modules.tracking.relocate import relocate
    from lightning_modules.tracking.store import open_store

    relocate(open_store(arguments.store), arguments.old, arguments.dry_run)


def _sync(arguments: argparse.Namespace) -> None:
    from lightning_modules.tracking.sync import sync

    sync(arguments.store, arguments.to, arguments.runs or [], arguments.experiment)


def _prune(arguments: argparse.Namespace) -> None:
    from lightning_modules.tracking.prune import prune
    from lightning_modules.tracking.store import open_store

    prune(open_store(arguments.store), arguments.dry_run)


if __name__ == "__main__":
    answer(main)
