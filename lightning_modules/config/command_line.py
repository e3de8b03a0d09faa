"""Entry point shared by all verbs: composing configs, one message per mistake (with suggestions), exit codes.

Longer than most: a function for each kind of mistake on a command line, with its message.
"""

import contextlib
import io
import os
import re
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, ListConfig, OmegaConf, open_dict

from lightning_modules.compat import hydra
from lightning_modules.config.errors import UserError, first_line, suggest
from lightning_modules.config.key_hints import options_with_name, options_with_part, same_key_elsewhere
from lightning_modules.config.metric_direction import monitor_mode
from lightning_modules.config.project import config_roots, home
from lightning_modules.config.signals import SignalReceived, signals_as_exceptions
from lightning_modules.config.task_groups import drop_unused_groups
from lightning_modules.config.trust import trust_packages

GROUPS = (
    "data", "augmentation", "model", "task", "optimizer", "scheduler", "trainer", "strategy", "callbacks", "tracking",
    "compression", "search", "experiment", "debug", "tta", "loggers",
)  # fmt: skip
RUN_ID_OVERRIDE = re.compile(r"\+{0,2}(resume(\.run)?|init_from|[\w.]+\.teacher)=")
REQUIRED_GROUPS = {"data", "model", "task", "optimizer", "trainer", "tracking", "callbacks", "strategy"}

OmegaConf.register_new_resolver("touchstone_root", lambda: str(home()), replace=True)
OmegaConf.register_new_resolver("monitor_mode", monitor_mode, replace=True)


@contextlib.contextmanager
def report_errors() -> Iterator[None]:
    """Print a user's mistake as one message and exit with 1; after a signal exit with 128 + its number.

    HYDRA_FULL_ERROR=1 or ``debug=…`` adds the traceback; an error that is not the user's always has one.
    """
    debugs = any(word.startswith("debug=") and word != "debug=none" for word in sys.argv[1:])
    try:
        yield
    except SignalReceived as killed:
        ignore_sigint()
        print(f"\n{killed}", file=sys.stderr)
        sys.exit(128 + killed.signal_number)
    except KeyboardInterrupt:
        ignore_sigint()
        print("\ninterrupted", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # the reader of a pipe has exited
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except Exception as error:
        message = format_error(error)
        wanted = os.environ.get("TOUCHSTONE_TRACEBACK") == "1" or (debugs and not _is_composition_error(error))
        if message is None or wanted:
            traceback.print_exc()
        print(message or f"{type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(1)


def ignore_sigint() -> None:
    """Ignore further Ctrl-C while the process exits; another one would change its exit code."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def run_cli(main: Callable[[], object]) -> object:
    """Run a verb's `main` and return its result; errors and signals become messages and exit codes (see `report_errors`)."""
    wanted = os.environ.get("HYDRA_FULL_ERROR", "0") not in ("", "0")
    os.environ.setdefault("TOUCHSTONE_TRACEBACK", str(int(wanted)))  # the commands that this one starts get both
    os.environ["HYDRA_FULL_ERROR"] = "1"  # `hydra.main` raises where it would print its own message and exit
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal without UTF-8 must not end a run
            stream.reconfigure(errors="backslashreplace")
    try:
        with report_errors(), signals_as_exceptions():
            _reject_empty_arguments(sys.argv[1:])
            return main()
    except (SignalReceived, KeyboardInterrupt):  # one more, before `report_errors` could ignore it
        ignore_sigint()
        sys.exit(130)


def _reject_empty_arguments(words: Sequence[str]) -> None:
    """Raise UserError for an empty argument, as an unset shell variable leaves it."""
    for before, word in zip(["", *words], words, strict=False):
        if not word.strip() or re.fullmatch(r"--[\w-]+=\s*", word):
            where = f"{before} " if before.startswith("--") else ""
            raise UserError(f"empty argument: {where}{word or repr(word)}; is a shell variable unset?")


def format_error(error: Exception, overrides: Sequence[str] | None = None) -> str | None:
    """The message for a user's mistake, or None if the error is a bug.

    Args:
        overrides: those of the composed config; default: those of this process's command line.
    """
    from hydra.errors import HydraException, InstantiationException
    from omegaconf.errors import OmegaConfBaseException

    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, yaml.MarkedYAMLError):
        return _yaml_message(error)
    if isinstance(error, InstantiationException):
        return _constructor_message(error)
    if isinstance(error, HydraException) or _is_composition_error(error):
        return _composing_message(error, overrides)
    if isinstance(error, OmegaConfBaseException):
        return f"config: {error}"
    if type(error).__name__ == "MlflowException":  # by name, so that MLflow is not imported here
        return f"the tracking store failed: {first_line(error)}"
    if type(error).__name__ == "MisconfigurationException" or _is_raised_by_lightning(error):
        return f"Lightning: {error}"
    if isinstance(error, OSError):
        where = f" ({error.filename})" if error.filename else ""
        return f"{error.strerror or error}{where}"
    return None


def _is_raised_by_lightning(error: Exception) -> bool:
    """Whether Lightning itself rejects an argument, a hook or a loader, rather than code that it calls."""
    *_, (frame, _) = [(None, 0), *traceback.walk_tb(error.__traceback__)]
    module = frame.f_globals.get("__name__", "") if frame else ""
    return isinstance(error, ValueError | RuntimeError | AttributeError) and module.startswith(
        ("pytorch_lightning.", "lightning.pytorch.")
    )


def _yaml_message(error: yaml.MarkedYAMLError) -> str:
    """``FILE:LINE: not valid YAML: what``."""
    mark = error.problem_mark or error.context_mark
    file = Path(mark.name) if mark else Path("config")
    file = file.relative_to(home()) if file.is_relative_to(home()) else file
    place = f"{file}:{mark.line + 1 if mark else 0}"
    said = " ".join(part for part in (error.context, error.problem) if part)
    return f"{place}: not valid YAML: {said}"


def _is_composition_error(error: Exception) -> bool:
    """Whether Hydra raised this while composing the config, before any of our code ran."""
    if type(error).__module__ == "hydra.errors" and type(error).__name__ != "InstantiationException":
        return True
    frames = [frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__)]
    return any(name.startswith(hydra.DEFAULTS_LIST_MODULE) for name in frames)


def _constructor_message(error: Exception) -> str | None:
    """A component's key and target with its constructor's error; None if the config's values are not the cause."""
    cause: BaseException = error
    while cause.__cause__ is not None and not isinstance(cause, UserError):
        cause = cause.__cause__
    if isinstance(cause, UserError):
        return str(cause)
    key = re.search(r"full_key: (\S+)", str(error))
    target = re.search(r"target '([^']+)'", str(error))
    if isinstance(cause, ImportError | AttributeError | NameError) or not target:
        return None
    return f"{key[1] if key else 'config'}: {target[1]} rejected its arguments: {first_line(cause)}"


def _composing_message(error: Exception, overrides: Sequence[str] | None) -> str:
    from omegaconf.errors import OmegaConfBaseException

    if "hydra/launcher/submitit" in str(error):
        return "hydra/launcher=slurm: the plugin is not installed: pip install -e '.[slurm]'"
    if overrides is None:
        overrides = hydra.args_parser().parse_known_args()[0].overrides
    mistakes = override_mistakes(list(overrides or ()), "train")
    if mistakes:
        count = f"{len(mistakes)} mistakes" if len(mistakes) > 1 else "A mistake"
        return f"{count} on the command line:\n" + "\n".join(f"  {mistake}" for mistake in mistakes)
    cause = error.__cause__
    return str(error) + (f"\n{cause}" if isinstance(cause, OmegaConfBaseException) else "")


def override_mistakes(overrides: list[str], config_name: str) -> list[str]:
    """All invalid overrides, each with suggestions."""
    from hydra import compose
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException, MissingConfigException

    from lightning_modules.config.search_path import config_search_path

    mistakes: list[str] = []
    groups, values = [], []
    parser = OverridesParser.create()
    for word in overrides:
        try:
            override = parser.parse_override(word)
        except HydraException as error:
            mistakes.append(f"{word}: {_syntax_message(word, str(error))}")
            continue
        key = override.key_or_group
        if not key:
            mistakes.append(f"{word}: the key before '=' is missing")
            continue
        if key.startswith("hydra"):
            continue  # Hydra and its plugins check their own keys
        if is_group(key):
            wrong = _unknown_options(override, key) or _misused_prefix(override, word, key)
            mistakes += wrong
            groups += [] if wrong or override.is_sweep_override() else [word]
        elif not override.is_force_add() and not override.is_add():
            values.append((word, key))
    with config_search_path():
        try:
            cfg = compose(config_name, groups)
        except MissingConfigException as error:
            return mistakes or [_missing_option(error)]
        except (HydraException, ValueError) as error:
            return mistakes or [" ".join(str(error).split())]
    for word, key in values:
        if problem := _unknown_key(cfg, key):
            mistakes.append(f"{word}: {problem}")
    return mistakes


def _missing_option(error: Any) -> str:
    """An option in a defaults list that does not exist, with suggestions."""
    group, _, name = str(error.missing_cfg_file).rpartition("/")
    options = {str(option) for option in error.options or ()}
    if not options:
        return f"a defaults list names '{error.missing_cfg_file}', which does not exist"
    return f"a defaults list names {_unknown_option(group, name, options)}"


def _syntax_message(word: str, error: str) -> str:
    if "=" not in word:
        return f"expected KEY=VALUE, e.g. {word}=…"
    example = f"'{word.split('=')[0]}=\"…\"'"
    return f"cannot parse the value ({error.splitlines()[0]}); quote values that contain = , : [ or {{, e.g. {example}"


def _misused_prefix(override: Any, word: str, group: str) -> list[str]:
    """`+` cannot add a group that the defaults list already has, and `~` cannot remove a required one."""
    if override.is_add() or override.is_force_add():
        return [f"{word}: {group} already has an option; replace it with {word.lstrip('+')} (without '+')"]
    if override.is_delete() and group in REQUIRED_GROUPS:
        return [f"{word}: {group} cannot be removed; choose another option with {group}=…"]
    return []


def _unknown_options(override: Any, group: str) -> list[str]:
    if override.is_delete() and override.value() in (None, ""):
        return []
    options = options_of(group)
    if override.is_sweep_override():
        chosen = [str(value) for value in override.sweep_string_iterator()]
    else:
        value = override.value()
        chosen = [str(v) for v in value] if isinstance(value, list) else [str(value)]
    return [_unknown_option(group, name, options) for name in chosen if name not in options]


def is_group(key: str) -> bool:
    """Whether a config root has options of this group."""
    return any((root / key).is_dir() for root in config_roots())


def options_of(group: str) -> set[str]:
    """The options of a group in all config roots, without the parts in its `base` folders."""
    folders = [(root / group).resolve() for root in config_roots()]  # a group may be a symbolic link
    options = {str(path.relative_to(real).with_suffix("")) for real in folders for path in real.rglob("*.yaml")}
    return {option for option in options if not option.startswith("base/")}


def _unknown_option(group: str, name: str, options: set[str]) -> str:
    """The message with similar options, and with all of them if they are not too many."""
    named = [f"{group}={option} {group}.name={name}" for option in options_with_name(group, name)]
    named = named or [f"{group}={option}" for option in options_with_part(group, name) if group == "augmentation"]
    hint = f"use {' or '.join(named)}" if named else suggest(name, options)
    whole = f" (all: {', '.join(sorted(options))})" if hint.startswith("did") and len(options) < 30 else ""
    return f"{group}={name}: unknown option of {group}; {hint}{whole}"


def _unknown_key(cfg: DictConfig, key: str) -> str | None:
    node: object = cfg
    walked = ""
    for part in key.replace("[", ".").replace("]", "").split("."):
        if isinstance(node, DictConfig):
            if part not in list(node):  # also one whose value is ???
                names = [str(name) for name in node]
                where = f"'{walked}'" if walked else "the config"
                hint = same_key_elsewhere(cfg, part) or suggest(part, names)
                return f"{where} has no '{part}'; {hint} (to add a new key: +{key}=…)"
            node = OmegaConf.select(node, part, throw_on_resolution_failure=False)
        elif isinstance(node, ListConfig) and part.isdigit() and int(part) < len(node):
            node = node[int(part)]
        else:
            return f"'{walked}' is a value and has no '{part}'"
        walked = f"{walked}.{part}" if walked else part
    return None


def quote_run_ids(words: Sequence[str]) -> list[str]:
    """Rewrite ``resume=RUN`` to ``resume.run=RUN`` and quote run ids that look like numbers (3e782338).

    ``scheduler._target_=…`` becomes ``++scheduler._target_=…``: the default, ``scheduler=none``, has no such key.
    """
    number = r"(?<=[=,])\d+(?:e\d+)?(?=,|$)"
    words = [re.sub(r"^(\+{0,2})resume=(?!\{)", r"\1resume.run=", word) for word in words]
    words = [re.sub(r"^\+{0,2}scheduler\._target_=", "++scheduler._target_=", word) for word in words]
    return [re.sub(number, r"'\g<0>'", word) if RUN_ID_OVERRIDE.match(word) else word for word in words]


def move_flags_last(words: Sequence[str]) -> list[str]:
    """Move all overrides before the flags: argparse accepts them in one place only."""
    overrides = list(hydra.args_parser().parse_intermixed_args(list(words)).overrides or ())
    flags, rest = [], overrides.copy()
    for word in words:
        if word in rest:
            rest.remove(word)
        else:
            flags.append(word)
    return [*overrides, *flags]


def config_dirs(words: Sequence[str]) -> list[str]:
    """The folders of configs that a command line names: ``--config-dir`` and ``hydra.searchpath=[…]``."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    given = hydra.args_parser().parse_intermixed_args(list(words))
    found = [given.config_dir] if given.config_dir else []
    for word in given.overrides or ():
        if re.match(r"\+{0,2}hydra\.searchpath=", word):
            with contextlib.suppress(HydraException):  # reported with the other mistakes
                value: object = OverridesParser.create().parse_override(word).value()
                found += [str(place) for place in (value if isinstance(value, list) else [value])]
    return found


def compose_run(overrides: Sequence[str], by_user: bool = False) -> DictConfig:
    """Compose the config of a run as ``touchstone train`` with these overrides would.

    Args:
        by_user: whether the user gives them, rather than a record: only then ``trust=[…]`` is followed.
    """
    from hydra import compose
    from hydra.core.hydra_config import HydraConfig

    from lightning_modules.config.search_path import config_search_path

    with config_search_path():
        cfg = compose("train", quote_run_ids(overrides), return_hydra_config=True)
    HydraConfig.instance().set_config(cfg)
    with open_dict(cfg):
        del cfg["hydra"]
    if by_user:
        trust_packages(cfg)
    return complete_choices(cfg)


def complete_choices(cfg: DictConfig) -> DictConfig:
    """Add what only Hydra knows: the option chosen in each group (`choices`) and a name for the run."""
    from hydra.core.hydra_config import HydraConfig

    hydra_cfg = HydraConfig.get()
    chosen = {group: hydra_cfg.runtime.choices.get(group) for group in GROUPS}
    with open_dict(cfg):
        cfg.pop("trust", None)  # see trust.trust_packages: no recorded config names trusted packages
        cfg.choices = {group: str(option) for group, option in chosen.items() if option not in (None, "none")}
        cfg.overrides = OmegaConf.to_container(hydra_cfg.overrides.task, resolve=False)
        drop_unused_groups(cfg)
        cfg.name = cfg.name or model_name(cfg)
    return cfg


def model_name(cfg: DictConfig) -> str:
    """The name of a run's model: ``data-model``."""
    return f"{_label(cfg, 'data')}-{_label(cfg, 'model' if cfg.get('model') else 'task')}"


def _label(cfg: DictConfig, group: str) -> str:
    """The option of a group; the class, where the option stands for any class."""
    option = str(cfg.choices.get(group))
    keys = f"{group}.object_class", f"{group}._target_"
    target = next(filter(None, (OmegaConf.select(cfg, key, throw_on_missing=False) for key in keys)), None)
    return str(target).rpartition(".")[2] if option.startswith("lightning_") and target else option
