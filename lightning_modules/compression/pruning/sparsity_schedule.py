"""Sparsity schedules."""


def cubic_sparsity(progress: float, initial: float, final: float) -> float:
    """Sparsity at `progress` in [0, 1] of the schedule, which rises fast at first and slowly at the end.

    Zhu and Gupta 2017, "To prune, or not to prune", equation 1: ``s_f + (s_i - s_f) (1 - (t - t_0) / (n dt))^3``.
    """
    return final + (initial - final) * (1 - min(max(progress, 0.0), 1.0)) ** 3


def iterative_sparsity(number: int, rounds: int, final: float, steps: str) -> float:
    """Sparsity after pruning `number` (from 1) of `rounds`.

    Args:
        steps: ``equal``: each round adds ``final / rounds``; ``factor``: each round prunes the same fraction of the
            remaining weights (Frankle and Carbin 2019, section 1).
    """
    if number == rounds:
        return final
    return final * number / rounds if steps == "equal" else 1 - (1 - final) ** (number / rounds)
