"""From an experiment's file to its config and its claim, or to all mistakes with file and line."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf

from lightning_modules.command_line import PROJECT_ROOT, compose_run, message_of
from lightning_modules.errors import UserError
from lightning_modules.reproduction.claim import Claim, parse_claim
from lightning_modules.reproduction.find import claim_files, is_base


@dataclass(frozen=True)
class Composed:
    """A claim with the config it is run by; `words` are the overrides that compose it."""

    name: str
    claim: Claim
    cfg: DictConfig
    words: tuple[str, ...]


def experiment_words(name: str) -> tuple[str, ...]:
    """The overrides of a claim's run: its experiment, recorded under the name of its folder."""
    return (f"experiment={name}", f"tracking.experiment={name.partition('/')[0]}")


def compose_claim(name: str, extra: Sequence[str] = ()) -> Composed:
    """Compose a claim's config and read its claim.

    Raises:
        UserError: with all mistakes of the node `claim`, each with its file and line, or what Hydra says.
    """
    words = (*experiment_words(name), *extra)
    try:
        cfg = compose_run(list(words))
    except Exception as error:
        raise UserError(f"{shown(claim_files()[name])}: {message_of(error, words) or error}") from error
    node: Any = OmegaConf.to_container(cfg.claim, resolve=True)
    claim, mistakes = parse_claim(node)
    if claim is None:
        listed = [f"{where(name, place)}: claim{'.' * bool(place)}{place}: {said}" for place, said in mistakes]
        raise UserError("\n".join(listed))
    return Composed(name, claim, cfg, words)


def where(name: str, place: str) -> str:
    """``experiments/x/y.yaml:LINE`` of a place below `claim`: in the claim's own file, else in a base file beside it."""
    own = claim_files()[name]
    path = ["claim", *place.split(".")] if place else ["claim"]
    best = (own, *_line(own, path))
    for base in filter(is_base, sorted(own.parent.glob("base*.yaml"))):
        line, depth = _line(base, path)
        if depth > best[2]:
            best = (base, line, depth)
    return f"{shown(best[0])}:{best[1]}"


def shown(file: Path) -> str:
    """A file of the project as one would name it."""
    return str(file.relative_to(PROJECT_ROOT)) if file.is_relative_to(PROJECT_ROOT) else str(file)


def _line(file: Path, path: Sequence[str]) -> tuple[int, int]:
    """The line of the deepest part of `path` that stands in the file, and how many of its parts that are."""
    node, line, depth = yaml.compose(file.read_text(encoding="utf-8"), Loader=yaml.SafeLoader), 1, 0
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
