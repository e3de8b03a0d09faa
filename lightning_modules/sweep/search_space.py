"""The space of a search: which keys of the config it varies and in what range, from YAML and from the command line."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from omegaconf import DictConfig

from lightning_modules.config.errors import UserError
from lightning_modules.sweep.distribution import range_mistakes, spec_of, to_distribution
from lightning_modules.sweep.search_settings import raise_mistakes, to_plain

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

Space: TypeAlias = "dict[str, BaseDistribution]"

_BARE = re.compile(r"[A-Za-z_][\w./-]*", re.ASCII)  # Hydra reads other letters only in quotes
_NOT_TEXT = ("null", "true", "false", "nan", "inf")
_NOT_SEARCHED = ("search", "sweep", "hydra", "tracking")


def parse_space(node: DictConfig | Mapping[str, Any], overrides: Sequence[str]) -> Space:
    """Return key -> distribution, sorted by key.

    Args:
        node: `search.space`: key -> range (see `range_mistakes`).
        words: overrides of the command line. A sweep (``a,b``, ``choice``, ``range``, ``interval``) adds a key or takes
            the place of the one in `node`; a fixed value takes the key out of the space.
    Raises:
        UserError: lists every mistake, also that there is nothing to search.
    """
    swept, fixed, mistakes = _parse_overrides(overrides)
    specs = {key: spec for key, spec in to_plain(node).items() if key.lstrip("+") not in fixed}
    specs = {key: spec for key, spec in specs.items() if key.lstrip("+") not in {name.lstrip("+") for name in swept}}
    specs |= swept
    for key, spec in specs.items():
        mistakes += [f"{key}: {mistake}" for mistake in range_mistakes(spec)]
    if not specs and not mistakes:
        mistakes.append(
            "there is nothing to search: choose a space (search=classification) or give ranges, "
            "as in 'optimizer.lr=tag(log,interval(1e-4,1e-1))'"
        )
    raise_mistakes("in the search space", mistakes)
    return {key: to_distribution(specs[key]) for key in sorted(specs)}


def _parse_overrides(overrides: Sequence[str]) -> tuple[dict[str, Any], set[str], list[str]]:
    """The ranges by key, the keys that have a fixed value, and what cannot be read."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    swept: dict[str, Any] = {}
    fixed, mistakes = set(), []
    parser = OverridesParser.create()
    for word in overrides:
        try:
            override = parser.parse_override(word)
            if override.is_sweep_override():
                swept[override.get_key_element()] = spec_of(override)
            else:
                fixed.add(override.key_or_group)
        except (HydraException, UserError) as error:
            mistakes.append(f"{word}: {str(error).splitlines()[0]}")
    return swept, fixed, mistakes


def check_keys(space: Space, cfg: DictConfig, conf_dir: Path) -> None:
    """Raise `UserError` for every key that the config does not have and every option that a group does not have.

    Args:
        cfg: the composed config, with Hydra's node or `overrides`: the keys are looked up in a config with the same
            fixed overrides, and those below a searched group in every option of it.
    """
    from lightning_modules.config.command_line import override_mistakes

    mistakes = [f"{key}: a search cannot vary this" for key in space if _root_key(key) in _NOT_SEARCHED]
    groups = {key: _options(dist) for key, dist in space.items() if (conf_dir / key).is_dir()}
    keys = [key for key in space if key not in groups and _root_key(key) not in _NOT_SEARCHED]
    below = {group: [key for key in keys if key.lstrip("+").startswith(group + ".")] for group in groups}
    free = [key for key in keys if not any(key in names for names in below.values())]
    fixed = _fixed_overrides(cfg)
    with _preserve_hydra_state():
        for group, options in groups.items():
            found = override_mistakes([*fixed, f"{group}={','.join(options)}"], conf_dir, "train")
            mistakes += found
            for option in options if below[group] and not found else ():
                problems = override_mistakes(
                    [*fixed, f"{group}={option}", *_dummy_overrides(below[group])], conf_dir, "train"
                )
                mistakes += [f"{_without_dummy_value(problem)} (with {group}={option})" for problem in problems]
        mistakes += map(_without_dummy_value, override_mistakes([*fixed, *_dummy_overrides(free)], conf_dir, "train"))
    raise_mistakes("in the search space", mistakes)


def _root_key(key: str) -> str:
    return re.split(r"[./]", key.lstrip("+"))[0]


def _options(distribution: BaseDistribution) -> list[str]:
    return [str(choice) for choice in getattr(distribution, "choices", ["(a range of numbers)"])]


def _dummy_overrides(keys: Sequence[str]) -> list[str]:
    return [f"{key}=0" for key in keys]


def _without_dummy_value(problem: str) -> str:
    """The message about KEY=0 as one about KEY."""
    return re.sub(r"^(\S+)=0:", r"\1:", problem)


def _fixed_overrides(cfg: DictConfig) -> list[str]:
    """The overrides that all trials have in common."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    overrides = [str(word) for word in (cfg.hydra.overrides.task if "hydra" in cfg else cfg.get("overrides") or [])]
    parser = OverridesParser.create()
    return [word for word in overrides if not parser.parse_override(word).is_sweep_override()]


@contextmanager
def _preserve_hydra_state() -> Iterator[None]:
    """Composing a config replaces Hydra's global state, and a sweep is called by a Hydra that still has its own."""
    from hydra.core.global_hydra import GlobalHydra

    before = GlobalHydra.instance().hydra
    try:
        yield
    finally:
        GlobalHydra.instance().hydra = before


def to_overrides(params: Mapping[str, Any]) -> list[str]:
    """Return ``KEY=VALUE`` for each of the values of a trial, which Hydra reads as exactly the same value and type.

    Raises UserError where a value is not a number, a text, a truth value or None.
    """
    return [f"{key}={_format_value(key, value)}" for key, value in params.items()]


def _format_value(key: str, value: Any) -> str:
    from hydra.core.override_parser.types import Quote, QuotedString

    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    if not isinstance(value, str):
        raise UserError(f"{key}: {value!r} is not a single value (a number, a text, true, false, null)")
    if _BARE.fullmatch(value) and value.lower() not in _NOT_TEXT:
        return value
    return QuotedString(value, Quote.single).with_quotes()


def space_signature(space: Space) -> str:
    """Return the space as JSON that is the same for the same space, in whatever order its keys are written."""
    from optuna.distributions import distribution_to_json

    return json.dumps({key: json.loads(distribution_to_json(dist)) for key, dist in space.items()}, sort_keys=True)


def describe_difference(old: str, new: str) -> str:
    """Return one line for each key in which two signatures differ; empty where they are the same."""
    before, after = json.loads(old), json.loads(new)
    lines = []
    for key in sorted(before.keys() | after.keys()):
        was, now = (_described(found[key]) if key in found else "not searched" for found in (before, after))
        if was != now:
            lines.append(f"{key}: {was} before, {now} now")
    return "\n".join(lines)


def _described(distribution: dict[str, Any]) -> str:
    about = distribution["attributes"]
    if "choices" in about:
        return "one of " + ", ".join(json.dumps(choice) for choice in about["choices"])
    noun = "whole number" if distribution["name"].startswith("Int") else "number"
    extra = ", log" * about["log"] + (f", step {about['step']}" if about["step"] not in (None, 1) else "")
    return f"{noun} from {about['low']} to {about['high']}{extra}"
