"""What is wrong with a claim before anything is run: one that cannot be judged is refused, with the reason."""

from collections.abc import Iterator

from lightning_modules.check import check_config
from lightning_modules.command_line import compose_run, message_of
from lightning_modules.errors import UserError
from lightning_modules.reproduction.claim import Arm, Claim, Verdict
from lightning_modules.reproduction.composed import Composed, compose_claim, shown, where
from lightning_modules.reproduction.find import claim_files, tier_of

_DOWN = ("loss", "error", "rmse", "mae", "mse", "seconds", "_s", "_ms", "_bytes", "perplexity")
_UP = ("accuracy", "auroc", "f1", "precision", "recall", "ndcg", "ratio", "speedup")
_HERE = ("ci", "cpu")  # tiers whose data have been seen


def lint(name: str) -> list[str]:
    """All mistakes of a claim as ``file:line: key: what``; empty where it can be judged."""
    try:
        return lint_composed(compose_claim(name))
    except UserError as error:
        return str(error).splitlines()


def lint_composed(composed: Composed) -> list[str]:
    """The same of a claim that could be composed."""
    name = composed.name
    found = [f"{where(name, place)}: claim.{place}: {said}" for place, said in _of_claim(composed.claim)]
    found += [f"{where(name, place)}: claim.{place}: {said}" for place, said in _of_selection(composed)]
    if (chosen := tier_of(name)) != composed.claim.tier:
        found.append(
            f"{name}: claim.tier: {composed.claim.tier}, but it is chosen as {chosen}: name the tier in its own file"
        )
    return found + _of_configs(composed)


def _of_claim(claim: Claim) -> Iterator[tuple[str, str]]:
    if len(claim.arms) == 2 and claim.kind == "difference":
        yield from _difference(claim)
    yield from _direction(claim)
    if claim.data is None and claim.tier in _HERE:
        yield "data", "the sha256 of the raw data is missing; reproduce.py --lint prints it"
    if claim.shortened and claim.kind != "curve" and set(claim.expect) - {Verdict.INCONCLUSIVE, Verdict.INVALID}:
        yield "expect", "a shortened run is never judged: INCONCLUSIVE"
    if claim.unit == "%" and any(abs(value) > 100 for value in _numbers(claim)):
        yield "value", "more than 100 %"


def _difference(claim: Claim) -> Iterator[tuple[str, str]]:
    first, second = (_mean(arm) for arm in claim.arms)
    said = _mean(claim)
    if first is not None and second is not None and said is not None:
        wanted = first - second
        if abs(wanted - said) > 0.005 * max(1.0, abs(wanted)):
            yield "value", f"{said:g} is not {first:g} - {second:g} = {wanted:g}, the difference of the arms"


def _direction(claim: Claim) -> Iterator[tuple[str, str]]:
    last = claim.metric.rpartition("/")[2].lower()
    if claim.better == "higher" and last.endswith(_DOWN):
        yield "better", f"higher, but {claim.metric} is better the lower it is"
    if claim.better == "lower" and last.endswith(_UP):
        yield "better", f"lower, but {claim.metric} is better the higher it is"
    fraction = last.endswith("accuracy")
    largest = max((abs(value) for value in _numbers(claim)), default=None)
    if fraction and largest is not None and claim.kind in ("absolute", "curve"):
        if claim.unit == "%" and largest <= 1:
            yield "unit", f"%, but the value is {largest:g}: a fraction has the unit ''"
        if claim.unit != "%" and largest > 1:
            yield "unit", f"{claim.unit!r}, but {claim.metric} is a fraction and the value is {largest:g}: %"


def _numbers(claim: Claim) -> list[float]:
    return [*claim.runs, *([claim.value] if claim.value is not None else [])]


def _mean(part: Arm | Claim) -> float | None:
    return sum(part.runs) / len(part.runs) if part.runs else part.value


def _of_selection(composed: Composed) -> Iterator[tuple[str, str]]:
    """Whether the config leaves behind what the selection rule takes."""
    claim, cfg = composed.claim, composed.cfg
    monitors = [
        node.monitor for node in (cfg.callbacks or {}).values() if node and node.get("save_weights_only") is not None
    ]
    watches, after = bool(cfg.data.get("watch_test")), f"; the config has {', '.join(monitors) or 'none'}"
    rule = claim.selection
    if rule == "last" and monitors:
        yield "selection", f"last, but the best weights are tested{after}: callbacks=last"
    if rule == "best_val" and not any(monitor.startswith("val/") for monitor in monitors):
        yield "selection", f"best_val needs a checkpoint that monitors a val/ metric{after}: callbacks=default"
    if rule == "best_val" and not (cfg.data.get("val_fraction") or cfg.data.get("fold") is not None):
        yield "selection", "best_val needs a validation part: data.val_fraction"
    if rule == "lowest_train_loss" and not any(monitor.startswith("train/") for monitor in monitors):
        yield "selection", f"lowest_train_loss needs a checkpoint that monitors the training loss{after}"
    if rule == "best_test" and not watches:
        yield "selection", "best_test needs the test part's history: data.watch_test=true"
    single = claim.metric.endswith("_best_val")  # a metric that holds the selected value alone
    if rule in ("best_val", "lowest_train_loss") and watches and not single:
        yield "selection", f"{rule} and data.watch_test=true: the last watched value would stand for the selected one"
    if claim.kind == "curve" and cfg.trainer.max_epochs != claim.epoch and not watches:
        yield (
            "epoch",
            (
                f"{claim.epoch}, but {cfg.trainer.max_epochs} epochs are trained and the test part is measured at the end: "
                "trainer.max_epochs, or data.watch_test=true"
            ),
        )


def _of_configs(composed: Composed) -> list[str]:
    """What the run's own check says of each arm's config."""
    file = shown(claim_files()[composed.name])
    found: dict[str, None] = {}
    arms = {f"{arm.name}: ": arm.overrides for arm in composed.claim.arms} or {"": ()}
    for arm, overrides in arms.items():
        words = [*composed.words, *overrides]
        try:
            check_config(compose_run(words) if overrides else composed.cfg)
        except Exception as error:
            lines = (message_of(error, words) or f"{type(error).__name__}: {error}").splitlines()
            lines = [line for line in lines if not line.endswith(" in the config:")]  # how many there are
            found |= {f"{file}: {arm}{line.strip()}": None for line in lines}
    return list(found)
