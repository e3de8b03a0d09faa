"""Which samples are left out, and the check of a split."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_modules.config.errors import UserError
from lightning_modules.quality.exclusion_list import describe_split, exclusions
from lightning_modules.quality.findings import find_issues
from lightning_modules.quality.outputs import replace_non_finite, write_json
from lightning_modules.quality.settings import ExclusionRules, QualitySettings


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def listed(data: Any, **rules: Any) -> dict[int, str]:
    found = exclusions(
        find_issues(data, QualitySettings(rules=ExclusionRules(**rules)), wants_labels="label_errors" in rules)
    )
    assert all(entry["part"] == "pool" for entry in found["excluded"])
    return {entry["index"]: entry["why"] for entry in found["excluded"]}


@pytest.fixture
def parts(made: Callable) -> dict[str, list[int]]:
    """Indices of the parts of 100 samples of two classes."""
    data = made(draw(100, 6), torch.arange(100) % 2)
    return {part: data.splits[part].tolist() for part in data.splits}


def test_of_exact_copies_the_first_stays_and_one_in_test_always(made: Callable, parts: dict) -> None:
    x, y = draw(100, 6), torch.arange(100) % 2
    a, b = [i for i in parts["train"] if i % 2 == 0][:2]
    c = next(i for i in parts["train"] if i % 2 == 1)
    d = next(i for i in parts["test"] if i % 2 == 1)
    e = next(i for i in parts["val"] if i % 2 == 1)
    x[b], x[c], x[e] = x[a], x[d], x[d]
    found = listed(made(x, y))
    assert found == {
        b: f"exact duplicate of {a}",
        c: f"exact duplicate of {d} (leak)",
        e: f"exact duplicate of {d} (leak)",
    }
    assert listed(made(x, y), leaks="none") == {b: f"exact duplicate of {a}"}
    assert set(listed(made(x, y), duplicates="none")) == {c, e}


def test_equal_samples_with_different_labels_are_left_out_but_for_test(made: Callable, parts: dict) -> None:
    x, y = draw(100, 6), torch.arange(100) % 2
    a, b = next(i for i in parts["train"] if i % 2), next(i for i in parts["train"] if i % 2 == 0)
    c, d = next(i for i in parts["test"] if i % 2), [i for i in parts["train"] if i % 2 == 0][1]
    x[b], x[d] = x[a], x[c]
    found = listed(made(x, y))
    assert set(found) == {a, b, d} and all("different label" in why for why in found.values())
    assert set(listed(made(x, y), conflicts=False)) == {max(a, b), d}


def test_near_copies_are_left_out_where_asked_and_leaks_always(made: Callable, parts: dict) -> None:
    x, y = draw(100, 6), torch.arange(100) % 2
    a, b = parts["train"][:2]
    c, d = parts["train"][2], parts["test"][0]
    x[b], x[c] = x[a] + 0.01, x[d] + 0.01
    assert listed(made(x, y)) == {c: f"near duplicate of {d} (leak)"}
    assert set(listed(made(x, y), duplicates="near")) == {b, c}
    assert listed(made(x, y), leaks="exact") == {}


def test_a_chain_of_near_samples_keeps_its_far_end(made: Callable) -> None:
    x = 3 * draw(100, 6)
    step = torch.tensor([0.25, 0, 0, 0, 0, 0])
    x[11], x[12] = x[10] + step, x[10] + 2 * step  # 10 and 12 are not near
    data = made(x, torch.zeros(100, dtype=torch.int64), val_fraction=0, test_fraction=0)
    assert list(listed(data, duplicates="near")) == [11]


def test_copies_of_a_near_duplicate_leak_as_it_does(made: Callable, parts: dict) -> None:
    x, y = draw(100, 6), torch.arange(100) % 2
    a, b = [i for i in parts["train"] if i % 2 == 0][:2]
    x[a] = x[parts["test"][0]] + 0.01
    x[b] = x[a]
    assert set(listed(made(x, y), duplicates="none")) == {a, b}


def test_so_many_label_errors_and_outliers_as_asked(made: Callable, parts: dict) -> None:
    y = torch.arange(100) % 2
    x = draw(100, 6) + 2 * y[:, None]
    wrong, far = parts["train"][5], next(i for i in parts["train"][9:] if i % 2)
    x[far] = 15
    x[wrong] = 2.0 * (1 - y[wrong])
    assert listed(made(x, y)) == {}
    found = listed(made(x, y), label_errors=1, outliers=1)
    assert set(found) == {wrong, far}
    assert "likely" in found[wrong] and found[far].startswith("outlier")


def test_label_errors_that_cannot_be_looked_for_are_one_message(made: Callable) -> None:
    with pytest.raises(UserError, match=r"clean.label_errors=3: .*not classes"):
        listed(made(draw(50, 3), draw(50)), label_errors=3)


def test_the_list_is_taken_by_the_datamodule_and_one_of_other_data_is_refused(made: Callable, tmp_path: Path) -> None:
    x, y = draw(100, 6), torch.arange(100) % 2
    x[8] = x[6]
    data = made(x, y)
    before = {part: data.splits[part].tolist() for part in data.splits}
    write_json(tmp_path / "list.json", exclusions(find_issues(data, QualitySettings(), wants_labels=False)))
    again = made(x, y, exclude=str(tmp_path / "list.json"))
    gone = {entry["index"] for entry in json.loads((tmp_path / "list.json").read_text())["excluded"]}
    assert gone
    for part, indices in before.items():
        assert again.splits[part].tolist() == [i for i in indices if i not in gone or part == "test"]
    with pytest.raises(UserError, match="created for different data"):
        made(x + 1, y, exclude=str(tmp_path / "list.json"))


def test_a_split_is_described_and_its_leaks_are_told(made: Callable, parts: dict) -> None:
    x, y = draw(100, 6), torch.arange(100) % 2
    found = describe_split(find_issues(made(x, y), QualitySettings(), wants_labels=False))
    assert {part: found["parts"][part]["indices"] for part in parts} == parts
    assert all(check["holds"] for check in found["checks"].values()) and found["unused"] == 0
    x[parts["train"][0]] = x[parts["test"][0]]
    leaking = describe_split(find_issues(made(x, y), QualitySettings(), wants_labels=False))["checks"]["leak_free"]
    assert not leaking["holds"] and leaking["found"] == "1 groups in train+test"


def test_a_part_with_other_classes_is_not_stratified_and_an_index_twice_not_disjoint(made: Callable) -> None:
    data = made(draw(100, 6), torch.arange(100) // 50)
    data.splits["test"] = torch.arange(20)
    data.splits["train"] = torch.arange(15, 90)
    checks = describe_split(find_issues(data, QualitySettings(), wants_labels=False))["checks"]
    assert not checks["disjoint"]["holds"] and not checks["stratified"]["holds"]


def test_a_record_holds_only_what_json_has(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", replace_non_finite({"a": float("nan"), "b": [float("inf"), 1.5]}))
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": None, "b": [None, 1.5]}
