"""``touchstone train``: one run, or with ``-m`` a sweep: every combination of values, or what a search proposes."""

import re
import sys
import textwrap

import hydra
from omegaconf import DictConfig

from lightning_modules.cli.completion import INSTALL
from lightning_modules.config.command_line import (
    complete_choices,
    config_dirs,
    move_flags_last,
    options_of,
    quote_run_ids,
    report_errors,
    run_cli,
)
from lightning_modules.config.plain import PlainDict
from lightning_modules.config.project import CONF, add_config_roots
from lightning_modules.config.trust import trust_packages
from lightning_modules.sweep.hydra_plugin import (
    GridSweeper,
    expand_sweep_name,
    refuse_former_budget,
    refuse_multiprocess_runs,
    refuse_sweep_without_m,
    register,
)

HELP = """Touchstone trains models and records each run in MLflow.

touchstone train [GROUP=OPTION …] [KEY=VALUE …]     one run
touchstone train -m [KEY=VALUE,VALUE …]      a sweep: every combination

Groups and their options:
{groups}

Keys of the run itself (those of a group: touchstone train --cfg job):
{keys}

Examples:
  touchstone train data=fashion_mnist model=lenet5 augmentation=image_basic
  touchstone train optimizer.lr=0.01 trainer.max_epochs=5
  touchstone train strategy=ddp trainer.devices=2
  touchstone train resume=RUN_ID
  touchstone train -m optimizer.lr=1e-3,1e-2 seed='range(5)' sweep.jobs=2
  touchstone train -m hydra/sweeper=optuna search=classification

--cfg job prints the composed config; --hydra-help says what else Hydra can do.
{completion}"""
_KEY = re.compile(r"^( *)(\w+): *([^#\n]*?) *(?:# (.*))?$", re.MULTILINE)
SUBJECTS = {
    "what is learned": ("experiment", "data", "augmentation", "tta", "model", "task"),
    "how it is trained": ("optimizer", "scheduler", "trainer", "strategy", "compression", "debug"),
    "what is recorded": ("callbacks", "tracking", "loggers"),
    "sweeps (-m)": ("search", "hydra/sweeper", "hydra/launcher"),
}


_RESULT: PlainDict = {}  # Hydra drops what the task function returns


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="train")
def task_function(cfg: DictConfig) -> float | str | None:
    """What Hydra calls for each job, with its composed config."""
    if cfg.sweep.job:  # one trial of a sweep, behind a launcher
        from lightning_modules.sweep.trial_job import run_launched_trial

        return run_launched_trial(cfg)
    with report_errors():  # here, not outside of Hydra, which would add a line of its own to the message
        trust_packages(cfg)
        refuse_multiprocess_runs(cfg)
        refuse_sweep_without_m(cfg)
        from lightning_modules.run.run import run

        started = list[str]()
        _RESULT["metrics"] = run(complete_choices(cfg), on_start=started.append)
        _RESULT["run_id"] = next(iter(started), None)
        return _RESULT["metrics"].get("val/loss")


def main() -> object:
    """Hand the overrides of this process to Hydra, or print the help. Returns the run, or the trials of a sweep."""
    add_config_roots(config_dirs(sys.argv[1:]))
    if {"--help", "-h"} & set(sys.argv[1:]):  # Hydra's own help composes a config for each group, which takes a second
        print(HELP.format(groups=_group_help(), keys=_key_help(), completion=INSTALL))
        return None
    sys.argv[1:] = quote_run_ids(move_flags_last(sys.argv[1:]))
    expand_sweep_name()
    refuse_former_budget(sys.argv[1:])
    register()
    task_function()
    return _RESULT or {"trials": GridSweeper.trials}


def _group_help() -> str:
    """The groups by subject, with their options; of experiments only the folders."""
    lines = []
    for subject, groups in SUBJECTS.items():
        lines.append(f" {subject}")
        for group in groups:
            shown = {f"{name.split('/')[0]}/…" if group == "experiment" else name for name in options_of(group)}
            text = f"  {group}: {', '.join(sorted(shown))}"
            lines += textwrap.wrap(text, 80, subsequent_indent="    ", break_on_hyphens=False)
    return "\n".join(lines)


def _key_help() -> str:
    """The keys at the top of conf/train.yaml that belong to no group, with their defaults and comments."""
    lines, parent = [], ""
    text = (CONF / "train.yaml").read_text(encoding="utf-8").partition("\nseed:")
    for indent, key, default, comment in _KEY.findall("seed:" + text[2].partition("\nhydra:")[0]):
        parent = parent if indent else key
        shown = f"  {f'{parent}.{key}' if indent else key}{f'={default}' if default else ''}"
        lines += textwrap.wrap(f"{shown:28} {comment}", 80, subsequent_indent=" " * 29, break_on_hyphens=False)
    return "\n".join(lines)


if __name__ == "__main__":  # how Lightning starts the other ranks
    run_cli(main)
