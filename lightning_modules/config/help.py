"""``--help``: the config groups with their options, and examples."""

from lightning_modules.config.command_line import GROUPS, options_of
from lightning_modules.config.project import PROJECT_ROOT

EXAMPLES = """Examples:
  touchstone train data=fashion_mnist model=lenet5 augmentation=image_basic
  touchstone train optimizer.lr=0.01 trainer.max_epochs=5
  touchstone train strategy=ddp trainer.devices=2
  touchstone train resume=RUN_ID
  touchstone train -m optimizer.lr=1e-3,1e-2 seed='range(5)' sweep.jobs=2
  touchstone train -m hydra/sweeper=optuna search=classification

--cfg job prints the composed config; --hydra-help says what else Hydra can do."""


def show_help() -> None:
    """Answer ``--help``. Hydra's own answer composes a config for each group to list its options, which takes a second."""
    print("Touchstone trains models and records each run in MLflow.\n")
    print("touchstone train [GROUP=OPTION …] [KEY=VALUE …]        one run")
    print("touchstone train -m [KEY=VALUE,VALUE …]                every combination, below one run\n")
    print("Groups and their options:")
    for group in (*GROUPS, "hydra/sweeper", "hydra/launcher"):
        print(f"  {group}: {', '.join(sorted(options_of(PROJECT_ROOT / 'conf' / group)))}")
    print("\n" + EXAMPLES)
