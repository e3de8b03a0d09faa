"""Which trials of a sweep are the best: by one objective, or by several at once."""

from collections.abc import Iterable, Mapping

from lightning_modules.sweep.trial_results import TrialResult


def best_trial(children: Iterable[TrialResult], objectives: Mapping[str, str]) -> TrialResult | None:
    """The FINISHED child with the best value; None without one, or where several objectives leave it open."""
    if len(objectives) != 1:
        return None
    ranked = ranked_trials(children, objectives)
    return ranked[0] if ranked else None


def ranked_trials(children: Iterable[TrialResult], objectives: Mapping[str, str]) -> list[TrialResult]:
    """The FINISHED children that have all values, sorted by the first objective, the best first."""
    comparable = [child for child in children if child.status == "FINISHED" and _scores(child, objectives)]
    return sorted(comparable, key=lambda child: (_scores(child, objectives), child.number))


def pareto_trials(children: Iterable[TrialResult], objectives: Mapping[str, str]) -> list[TrialResult]:
    """The FINISHED children that no other one beats in one objective without losing in another; sorted by the first."""
    ranked = ranked_trials(children, objectives)
    scores = [_scores(child, objectives) for child in ranked]
    return [
        child
        for child, own in zip(ranked, scores, strict=True)
        if not any(other != own and all(a <= b for a, b in zip(other, own, strict=True)) for other in scores)
    ]


def _scores(child: TrialResult, objectives: Mapping[str, str]) -> tuple[float, ...]:
    """The values with signs such that less is better; empty where one is missing."""
    values = [(child.values.get(name), direction) for name, direction in objectives.items()]
    scores = [value if direction == "minimize" else -value for value, direction in values if value is not None]
    return tuple(scores) if len(scores) == len(objectives) else ()
