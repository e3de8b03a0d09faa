"""``touchstone data``: look at a data set, clean it, split it."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from lightning_modules.cli.arguments import verb
from lightning_modules.cli.json_output import NotAsExpected


@verb(
    "inspect|clean|split data=NAME [KEY=VALUE …]",
    (
        "inspect data=digits near=0.98 labels.classifier=knn",
        "inspect data=mnist data@other=fashion_mnist tracking=none",
        "clean data=digits clean.duplicates=near clean.label_errors=20 out=list.json",
    ),
)
def main(
    target: Annotated[Literal["inspect", "clean", "split"], "inspect, clean or split"],
    overrides: Annotated[Sequence[str], "keys of conf/quality.yaml, and data=NAME with the keys of conf/data/"] = (),
) -> object:
    """Look at a data set. inspect: balance, values, duplicates, leaks, outliers, likely label errors and drift; printed and
    logged with pictures. clean: write a list of samples to leave out, which runs take as data.exclude=FILE; the data stay
    as they are. split: write the split and check that it is disjoint, stratified and free of leaks (exit code 1 where it
    is not)."""
    from lightning_modules.quality import commands

    result: Any = commands.COMMANDS[target](commands.compose_quality(list(overrides)))
    if target == "split" and not all(check["holds"] for check in result["checks"].values()):
        raise NotAsExpected(result)
    return result
