"""Static checks of a claim, made before anything runs: a claim that cannot be judged is rejected with the reason."""

from collections.abc import Callable, Iterator
from decimal import Decimal

from lightning_modules.config.check import check_config
from lightning_modules.config.command_line import compose_run, format_error
from lightning_modules.config.errors import UserError, suggest
from lightning_modules.config.metric_direction import higher_is_better
from lightning_modules.config.trust import untrusted
from lightning_modules.reproduction.claim import Arm, Claim, PublishedValue, Verdict
from lightning_modules.reproduction.compose import ComposedClaim, compose_claim, locate_key, project_path
from lightning_modules.reproduction.discovery import claim_files, tier_of
from lightning_modules.reproduction.logged_metrics import is_logged, task_metric_names
from lightning_modules.reproduction.verdict import resolve_tolerance

Content = Callable[[ComposedClaim], str]  # a claim -> the sha256 of its raw data
_MAX_TOLERANCE_POINTS, _MAX_TOLERANCE_FRACTION = 10.0, 0.2  # a larger tolerance, in points or relative, is meaningless
_TIERS_WITH_DATA = ("ci", "cpu")  # tiers whose data are available to the authors of claims


def lint(name: str, content: Content | None = None) -> list[str]:
    """All mistakes of a claim as ``file:line: key: message``; empty if it can be judged.

    Args:
        content: returns the sha256 of the raw data, to be compared with the claim's; None skips this check.
    """
    try:
        return lint_composed(compose_claim(name), content)
    except UserError as error:
        return str(error).splitlines()


def lint_composed(composed: ComposedClaim, content: Content | None = None) -> list[str]:
    """All mistakes of a composed claim."""
    name, claim = composed.name, composed.claim
    mistakes = [*check_claim(claim), *_check_selection(composed), *_check_data(composed, content)]
    found = [f"{locate_key(name, key)}: claim.{key}: {text}" for key, text in mistakes]
    if (tier := tier_of(name)) != claim.tier:
        hint = "set it in the claim's own file"
        found.append(f"{name}: claim.tier: {claim.tier}, but selection by tier reads {tier}; {hint}")
    return found + _check_configs(composed)


def _check_data(composed: ComposedClaim, content: Content | None) -> Iterator[tuple[str, str]]:
    """Check the data's hash; the value is compared if the data are on this machine."""
    given = composed.claim.data
    if given is None and composed.claim.tier not in _TIERS_WITH_DATA:
        return
    try:
        found = content(composed) if content else given
        hint = f"add data: {found}" if found else "lint=true prints it"
    except UserError as error:
        found, hint = given, str(error)
    if given is None:
        yield "data", f"the sha256 of the raw data is missing; {hint}"
    elif found != given:
        yield "data", f"the sha256 of the raw data is {found}, not {given}"


def check_claim(claim: Claim) -> Iterator[tuple[str, str]]:
    """Mistakes visible in the claim alone, as (key below `claim`, message)."""
    if len(claim.arms) == 2 and claim.kind == "difference":
        yield from _check_difference(claim)
    if higher_is_better(claim.metric) not in (None, claim.better == "higher"):
        way = "lower" if claim.better == "higher" else "higher"
        yield "better", f"{claim.better}, but {claim.metric} is better the {way} it is"
    yield from _check_unit(claim)
    yield from _check_tolerance(claim)
    if claim.shortened and claim.kind != "curve" and set(claim.expect) - {Verdict.INCONCLUSIVE, Verdict.INVALID}:
        yield "expect", "the verdict of a shortened run is always INCONCLUSIVE"
    if claim.unit == "%" and any(abs(value) > 100 for value in _published_numbers(claim)):
        yield "value", "more than 100 %"


def _check_difference(claim: Claim) -> Iterator[tuple[str, str]]:
    """The published difference must equal that of the published arms, up to the rounding of the given numbers."""
    first, second = (_published_mean(arm) for arm in claim.arms)
    published = _published_mean(claim)
    if first is not None and second is not None and published is not None:
        expected = first - second
        written = [Decimal(repr(number)) for part in claim.arms for number in _published_numbers(part)]
        rounding = min(1.0, *(10.0 ** int(number.normalize().as_tuple().exponent) for number in written))
        if abs(expected - published) > rounding * (1 + 1e-6):
            yield "value", f"{published:g} is not {first:g} - {second:g} = {expected:.6g}, the difference of the arms"


def _check_tolerance(claim: Claim) -> Iterator[tuple[str, str]]:
    """A tolerance that almost any result meets is meaningless."""
    tolerance, why = resolve_tolerance(claim)
    theirs = _published_mean(claim)
    if tolerance is None or claim.kind == "equivalence":
        return
    if claim.unit == "%" and tolerance > _MAX_TOLERANCE_POINTS:
        yield "tolerance", f"±{tolerance:g} points ({why}): must be at most {_MAX_TOLERANCE_POINTS:g} points"
    elif claim.kind == "difference" and theirs and tolerance >= abs(theirs):
        within = f"a difference of 0 would be within it; it must be below {abs(theirs):g}"
        yield "tolerance", f"±{tolerance:g} ({why}): {within}"
    elif claim.unit == "%" or claim.kind == "difference" or not theirs:
        return
    elif tolerance > _MAX_TOLERANCE_FRACTION * abs(theirs):
        yield "tolerance", f"±{tolerance:g} ({why}): must be at most {100 * _MAX_TOLERANCE_FRACTION:g} % of {theirs:g}"


def _check_unit(claim: Claim) -> Iterator[tuple[str, str]]:
    fraction = claim.metric.rpartition("/")[2].lower().endswith("accuracy")
    largest = max((abs(value) for value in _published_numbers(claim)), default=None)
    if fraction and largest is not None and claim.kind in ("absolute", "curve"):
        if claim.unit == "%" and largest <= 1:
            yield "unit", f"%, but the value is {largest:g}; use unit '' for a fraction"
        if claim.unit != "%" and largest > 1:
            yield "unit", f"{claim.unit!r}, but {claim.metric} is a fraction and the value is {largest:g}; use unit %"


def _published_numbers(claim: PublishedValue) -> list[float]:
    return [*claim.runs, *([claim.value] if claim.value is not None else [])]


def _published_mean(part: Arm | Claim) -> float | None:
    return sum(part.runs) / len(part.runs) if part.runs else part.value


def _check_selection(composed: ComposedClaim) -> Iterator[tuple[str, str]]:
    """Whether the config provides what the selection rule needs."""
    claim, cfg = composed.claim, composed.cfg
    monitors = [
        node.monitor for node in (cfg.callbacks or {}).values() if node and node.get("save_weights_only") is not None
    ]
    watches, after = bool(cfg.data.get("watch_test")), f"; the config has {', '.join(monitors) or 'none'}"
    rule = claim.selection
    if rule == "last" and monitors:
        yield "selection", f"last, but the best weights are tested{after}; use callbacks=last"
    if rule == "best_val" and not any(monitor.startswith(("val/", "val_", "valid")) for monitor in monitors):
        yield "selection", f"best_val needs a checkpoint that monitors a val/ metric{after}; use callbacks=default"
    splits = "val_fraction" in cfg.data  # as our datamodules do
    if rule == "best_val" and splits and not (cfg.data.val_fraction or cfg.data.get("fold") is not None):
        yield "selection", "best_val needs validation data; set data.val_fraction"
    if rule == "lowest_train_loss" and not any(monitor.startswith(("train/", "train_")) for monitor in monitors):
        yield "selection", f"lowest_train_loss needs a checkpoint that monitors the training loss{after}"
    if rule == "best_test" and not watches:
        yield "selection", "best_test needs test metrics of every epoch; set data.watch_test=true"
    single = claim.metric.endswith("_best_val")  # a metric that is only logged for the selected weights
    if rule in ("best_val", "lowest_train_loss") and watches and not single:
        yield "selection", f"{rule} with data.watch_test=true: the last test value would be taken for the selected one"
    if claim.kind == "curve" and cfg.trainer.max_epochs != claim.epoch and not watches:
        measured = f"{cfg.trainer.max_epochs} epochs are trained and the test metric is measured at the end"
        yield "epoch", f"{claim.epoch}, but {measured}; set trainer.max_epochs or data.watch_test=true"


def _check_configs(composed: ComposedClaim) -> list[str]:
    """Mistakes of each arm's config: the run's own checks, metrics that are not logged, untrusted components."""
    file, metric = project_path(claim_files()[composed.name]), composed.claim.metric
    found: dict[str, None] = {}
    arms = {f"{arm.name}: ": arm.overrides for arm in composed.claim.arms} or {"": ()}
    for arm, overrides in arms.items():
        all_overrides = [*composed.overrides, *overrides]
        try:
            cfg = compose_run(all_overrides) if overrides else composed.cfg
            check_config(cfg)
        except Exception as error:
            lines = (format_error(error, all_overrides) or f"{type(error).__name__}: {error}").splitlines()
            lines = [line for line in lines if not line.endswith((" in the config:", " on the command line:"))]
            found |= {f"{file}: {arm}{line.strip()}": None for line in lines}
            continue
        names = task_metric_names(cfg)
        if names is not None and not is_logged(metric, cfg, names):
            key = f"{locate_key(composed.name, 'metric')}: claim.metric"
            every = f"{suggest(metric, names)} (the task logs: {', '.join(sorted(names))})"
            found[f"{key}: {arm}no run of this config logs {metric!r}; {every}"] = None
        found |= {f"{file}: {arm}{mistake}": None for mistake in untrusted(cfg)}
    return list(found)
