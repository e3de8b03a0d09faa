"""Look at a data set: ``python scripts/data.py inspect|clean|split data=NAME [KEY=VALUE …]``."""

import argparse

from lightning_modules.command_line import answer

VERBS = {
    "inspect": "balance, values, duplicates, leaks, outliers, likely label errors and drift; printed and logged with pictures",
    "clean": "write a list of samples to leave out, which runs take as data.exclude=FILE; the data stay as they are",
    "split": "write the split and check that it is disjoint, stratified and free of leaks (exit code 1 where it is not)",
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Look at a data set.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="\n".join(f"{verb:8} {text}" for verb, text in VERBS.items())
        + "\n\nAll keys with their meaning are in conf/quality.yaml; those of data sets in conf/data/.\n"
        "  python scripts/data.py inspect data=digits near=0.98 labels.classifier=knn\n"
        "  python scripts/data.py inspect data=mnist data@other=fashion_mnist tracking=none\n"
        "  python scripts/data.py clean data=digits clean.duplicates=near clean.label_errors=20 out=list.json",
    )
    parser.add_argument("verb", choices=VERBS, metavar="inspect|clean|split")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    arguments = parser.parse_args()
    from lightning_modules.quality import verbs

    getattr(verbs, arguments.verb)(verbs.compose_quality(arguments.overrides))


if __name__ == "__main__":
    answer(main)
