"""Judge papers' results: ``python scripts/reproduce.py mnist1d/cnn | mnist1d | all [--tier ci,cpu] [seeds=3] [jobs=2]``."""

import argparse
import sys

from lightning_modules.command_line import answer


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Run all seeds of claims, and say what a statistician would of ours beside the paper's. "
        "What is known already is not run again; a command that was cut off goes on where it was."
    )
    parser.add_argument(
        "words", nargs="+", metavar="CLAIM|KEY=VALUE",
        help="claims, folders of experiments/, or all; then seeds=N, jobs=N, retries=N, fresh=true (begin anew); "
        "any other override makes a trial that is INVALID as a verdict",
    )  # fmt: skip
    parser.add_argument("--tier", help="ci,cpu,gpu,cluster (default for folders and all: ci,cpu)")
    parser.add_argument("--lint", action="store_true", help="only say what is wrong with the claims")
    parser.add_argument("--judge", action="store_true", help="judge what is in the store, run nothing")
    parser.add_argument("--table", action="store_true", help="only rewrite the tables of the READMEs from the store")
    parser.add_argument("--partial", action="store_true", help="with --table: also where claims have no verdict yet")
    parser.add_argument("--freeze", action="store_true", help="write ten seeds or more as an internal reference")
    return parser.parse_intermixed_args()


def main() -> None:
    arguments = parsed()
    from lightning_modules.reproduction.question import Question, parse_words, settings_of

    names, own, overrides = parse_words(arguments.words)
    tiers = arguments.tier.split(",") if arguments.tier else None
    question = Question(names, tiers, settings_of(own), overrides, arguments.judge, arguments.partial)
    from lightning_modules.reproduction import verbs

    verb = next((name for name in ("lint", "table", "freeze") if getattr(arguments, name)), "verdicts")
    if not getattr(verbs, verb)(question):
        sys.exit(1)


if __name__ == "__main__":
    answer(main)
