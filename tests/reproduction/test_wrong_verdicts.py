"""How often each kind of claim is judged wrongly, by the simulation that `scripts/benchmark.py claims` prints."""

import importlib.util
import sys
from collections import defaultdict
from types import ModuleType

import pytest
from claim_project import ROOT


@pytest.fixture(scope="module")
def simulation() -> ModuleType:
    spec = importlib.util.spec_from_file_location("simulated_claims", ROOT / "scripts" / "benchmarks" / "claims.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules["simulated_claims"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
@pytest.mark.parametrize(("name", "n"), [("difference, one number", 5), ("ordering, 3 arms", 3)])
def test_arms_that_correlate_by_seed_are_judged_wrongly_once_in_twenty(
    simulation: ModuleType, name: str, n: int
) -> None:
    (kind,) = (kind for kind in simulation.KINDS if kind.name == name)
    for verdict, rate in simulation.rates(kind, 0.9, n, draws=1000).items():
        assert rate <= 0.07, verdict  # with the variance of paired arms it would be 0.25, without a correction 0.10


@pytest.mark.slow
def test_no_kind_of_claim_is_judged_wrongly_more_often_than_it_may(simulation: ModuleType) -> None:
    found: dict[tuple[str, str], list[float]] = defaultdict(list)
    for kind, correlation, n in simulation.cells():
        for verdict, rate in simulation.rates(kind, correlation, n, draws=400).items():
            assert rate <= 0.105, (kind.name, correlation, n, verdict)  # 0.07 and three standard errors of 400 draws
            found[kind.name, verdict].append(rate)
    assert len(found) == 11 * 3 + 2 * 2  # an ordering cannot be BETTER
    for cell, rates in found.items():
        assert sum(rates) / len(rates) <= simulation.NOMINAL + 0.02, cell
