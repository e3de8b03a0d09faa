"""Serve a recorded model over HTTP on 127.0.0.1: ``python scripts/serve.py RUN_ID [port=5001]``."""

import argparse
import sys

from lightning_modules.command_line import answer


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Start MLflow's scoring server for the model that a run has published: POST raw samples to /invocations."
    )
    parser.add_argument("run", help="id, its first 6 or more characters, or name of a run; or models:/…")
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE", help="port=5001")
    arguments = parser.parse_args()
    from lightning_modules.export.words import free_port, read_words

    port = free_port("port=", str(read_words(arguments.settings, {"port": "5001"})["port"]))
    from lightning_modules.export.served import serve
    from lightning_modules.serve import published_model
    from lightning_modules.tracking.store import open_store

    store = open_store()
    sys.exit(serve(*published_model(store, arguments.run), store.uri, port))


if __name__ == "__main__":
    answer(main)
