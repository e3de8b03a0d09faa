"""Compose an experiment's config and parse its claim; all mistakes are reported with file and line."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml
from omegaconf import DictConfig

from lightning_modules.config.command_line import compose_run, format_error
from lightning_modules.config.errors import UserError
from lightning_modules.config.plain import to_plain
from lightning_modules.config.project import home
from lightning_modules.reproduction.claim import Claim, parse_claim
from lightning_modules.reproduction.discovery import claim_files, file_and_bases, is_base_file


@dataclass(frozen=True)
class ComposedClaim:
    """A claim with its composed config; `extra`: overrides that are not the claim's own."""

    name: str
    claim: Claim
    cfg: DictConfig
    extra: tuple[str, ...] = ()

    @property
    def overrides(self) -> tuple[str, ...]:
        """The overrides of its runs."""
        return _overrides(self.name, self.extra)


def _overrides(name: str, extra: Sequence[str]) -> tuple[str, ...]:
    """Runs are recorded under the name of the claim's folder."""
    return (f"experiment={name}", f"tracking.experiment={name.partition('/')[0]}", *extra)


def compose_claim(name: str, extra: Sequence[str] = ()) -> ComposedClaim:
    """Compose a claim's config and read its claim.

    Raises:
        UserError: all mistakes of the node `claim`, each with file and line, or Hydra's error.
    """
    overrides = _overrides(name, extra)
    own = claim_files()[name]
    _require_utf8(own)
    try:
        cfg = compose_run(list(overrides))
    except Exception as error:
        raise UserError(_error_location(error, own) + _compose_error(error, overrides)) from error
    node = to_plain(cfg.claim) if isinstance(cfg.claim, DictConfig) else cfg.claim
    if not isinstance(node, dict):
        given = "nothing" if node is None else f"a value of type {type(node).__name__}"
        expected = "expected the keys of a claim (paper, source, metric, …)"
        raise UserError(f"{locate_key(name, '')}: claim: {expected}, got {given}")
    claim, mistakes = parse_claim(node)
    if claim is None:
        listed = [f"{locate_key(name, key)}: claim{'.' * bool(key)}{key}: {text}" for key, text in mistakes]
        raise UserError("\n".join(listed))
    return ComposedClaim(name, claim, cfg, tuple(extra))


def _require_utf8(own: Path) -> None:
    """Raise UserError if a claim's file, or a base file that it uses, is not UTF-8 text."""
    for file in file_and_bases(own):
        content = file.read_bytes()
        try:
            content.decode()
        except UnicodeDecodeError as error:
            line = content[: error.start].count(b"\n") + 1
            byte = f"{content[error.start]:#04x}"
            raise UserError(f"{project_path(file)}:{line}: not UTF-8 text (byte {byte})") from error


def _error_location(error: Exception, own: Path) -> str:
    """``FILE:LINE: `` of the option that cannot be composed, or just the claim's file."""
    if isinstance(error, yaml.MarkedYAMLError):
        return ""  # its message starts with the location
    option = str(getattr(error, "missing_cfg_file", None) or "").rpartition("/")[2]
    for file in file_and_bases(own) if option else ():
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
            if re.search(rf"(?<![\w-]){re.escape(option)}(?![\w-])", line.partition("#")[0]):
                return f"{project_path(file)}:{number}: "
    return f"{project_path(own)}: "


def _compose_error(error: Exception, overrides: Sequence[str]) -> str:
    lines = (format_error(error, overrides) or str(error)).splitlines()
    return " ".join(line.strip() for line in lines if not line.endswith(" on the command line:"))


def locate_key(name: str, place: str) -> str:
    """``experiments/x/y.yaml:LINE`` of a key below `claim`, in the claim's own file or a base file beside it."""
    own = claim_files()[name]
    path = ["claim", *place.split(".")] if place else ["claim"]
    best = (own, *_line_and_depth(own, path))
    for base in filter(is_base_file, sorted(own.parent.glob("base*.yaml"))):
        line, depth = _line_and_depth(base, path)
        if depth > best[2]:
            best = (base, line, depth)
    return f"{project_path(best[0])}:{best[1]}"


def project_path(file: Path) -> str:
    """A path relative to the project, if it is inside."""
    return str(file.relative_to(home())) if file.is_relative_to(home()) else str(file)


def _line_and_depth(file: Path, path: Sequence[str]) -> tuple[int, int]:
    """The line of the deepest existing part of the key `path` in a file, and its depth."""
    line, depth = 1, 0
    try:
        node = yaml.compose(file.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except (yaml.YAMLError, UnicodeDecodeError):
        return line, depth  # a broken base file of other claims
    for part in path:
        if isinstance(node, yaml.SequenceNode) and part.isdigit() and int(part) < len(node.value):
            node = node.value[int(part)]
            line = node.start_mark.line + 1
        elif isinstance(node, yaml.MappingNode):
            pair = next((pair for pair in node.value if pair[0].value == part), None)
            if pair is None:
                break
            line, node = pair[0].start_mark.line + 1, pair[1]
        else:
            break
        depth += 1
    return line, depth
