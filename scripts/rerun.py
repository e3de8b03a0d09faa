"""Run a recorded config again and compare: ``python scripts/rerun.py RUN_ID [--here]``."""

import argparse

from lightning_modules.command_line import answer


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Run the recorded config on the recorded code, and compare metric by metric."
    )
    parser.add_argument("run", help="id, its first 6 or more characters, or name of a run")
    parser.add_argument(
        "--here",
        action="store_true",
        help="use today's code instead of the recorded one, and say what changed",
    )
    arguments = parser.parse_args()
    from lightning_modules.tracking.rerun import rerun

    rerun(arguments.run, here=arguments.here)


if __name__ == "__main__":
    answer(main)
