"""Raw values, outliers and drift."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import stats

from lightning_modules.config.errors import UserError
from lightning_modules.quality.drift import compare_distributions, holm, label_shift, two_sample_auc
from lightning_modules.quality.embedding import embed
from lightning_modules.quality.findings import build_report, find_issues
from lightning_modules.quality.samples import collect_samples
from lightning_modules.quality.settings import QualitySettings
from lightning_modules.quality.value_statistics import column_outliers, describe_values, find_outliers, robust_z


def test_missing_values_and_constant_columns_are_counted(made: Callable) -> None:
    x = torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
    x[:, 1] = 7
    x[3, 2], x[4, 2] = math.nan, math.inf
    x[5] = 2
    found = describe_values(collect_samples(made(x, torch.arange(50) % 2)))
    assert found["missing_values"] == 2 and found["samples_with_missing"] == 2
    assert found["columns_with_missing"] == {"2": 2}
    assert found["constant_columns"] == 0  # the constant sample changes column 1
    assert found["constant_samples"] == 1 and found["max"] == 7
    x[5, 1] = 7
    assert describe_values(collect_samples(made(x, torch.arange(50) % 2)))["constant_columns_first"] == [1]


def test_values_that_are_missing_everywhere_are_told_and_nothing_is_compared(made: Callable) -> None:
    data = made(torch.full((40, 3), math.nan), torch.arange(40) % 2)
    findings = find_issues(data, QualitySettings())
    found = build_report(findings)
    assert found["values"]["missing_values"] == 120 and found["values"]["min"] is None
    assert found["label_errors"] is None and "no finite value" in found["notes"][0]
    with pytest.raises(UserError, match="no finite value"):
        embed(collect_samples(data))


def test_silence_and_empty_texts_are_constant_samples(made: Callable) -> None:
    ids = torch.tensor([[1, 2, 0], [0, 0, 0], [3, 1, 2], [0, 0, 0]] * 5)
    assert describe_values(collect_samples(made(ids, torch.arange(20) % 2, "text")))["constant_samples"] == 10


def test_robust_z_is_that_of_a_normal_sample_and_leaves_constant_columns_out() -> None:
    values = np.random.RandomState(0).standard_normal((20000, 2))
    values[:, 1] = 4
    assert robust_z(values)[:, 1].max() == 0
    assert np.corrcoef(robust_z(values)[:, 0], np.abs(values[:, 0]))[0, 1] > 0.999


def test_a_value_far_out_in_its_column_and_a_sample_far_from_all_others_are_found(made: Callable) -> None:
    x = torch.randn(300, 5, generator=torch.Generator().manual_seed(0))
    x[17, 2] = 60
    samples = collect_samples(made(x, torch.arange(300) % 2))
    assert np.flatnonzero(column_outliers(samples, 10)).tolist() == [17]
    z, order = find_outliers(embed(samples), 3.5)
    assert order[0] == 17 and z[17] == z.max() and len(order) < 6
    assert column_outliers(collect_samples(made(x.reshape(300, 1, 1, 5), torch.arange(300) % 2)), 10) is None


def test_drift_names_the_column_that_moved_and_keeps_quiet_otherwise() -> None:
    rng = np.random.RandomState(0)
    a, b = rng.standard_normal((400, 6)), rng.standard_normal((300, 6))
    same = compare_distributions(a, b, [str(k) for k in range(6)])
    assert same["drifted_columns"] == 0 and 0.4 < same["auc"] < 0.6 and same["auc_p"] > 0.01
    b[:, 3] += 1
    moved = compare_distributions(a, b, [str(k) for k in range(6)])
    assert [row["column"] for row in moved["columns"] if row["p_holm"] < 0.05] == ["3"]
    assert moved["auc"] > 0.7 and moved["auc_p"] < 1e-6
    ks = stats.ks_2samp(a[:, 3], b[:, 3], method="asymp")
    assert moved["columns"][3]["statistic"] == pytest.approx(ks.statistic)


def test_a_column_of_few_values_is_compared_by_chi_squared() -> None:
    a, b = np.tile([[0.0], [1.0]], (100, 1)), np.tile([[0.0], [0.0], [1.0], [0.0]], (50, 1))
    row = compare_distributions(a, b, ["flag"])["columns"][0]
    expected = stats.chi2_contingency([[100, 100], [150, 50]], correction=False)
    assert row["test"] == "chi2" and row["p"] == pytest.approx(expected.pvalue)


def test_the_two_sample_test_holds_its_level() -> None:
    rng = np.random.RandomState(0)
    found = [two_sample_auc(rng.standard_normal((60, 4)), rng.standard_normal((60, 4)), seed)[1] for seed in range(25)]
    assert np.mean(np.array(found) < 0.05) < 0.2


def test_holm_is_monotone_and_never_above_one() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1, 1] and holm([]) == []


def test_label_shift_is_seen_in_classes_and_in_numbers() -> None:
    rng = np.random.RandomState(0)
    assert label_shift(rng.randint(0, 3, 500), rng.randint(0, 3, 500))["p"] > 0.01
    assert label_shift(rng.randint(0, 3, 500), rng.randint(0, 2, 500))["p"] < 1e-9
    assert label_shift(rng.randn(500), rng.randn(500) + 1)["p"] < 1e-9


def test_two_sets_are_compared_in_one_space_and_must_have_one_shape(made: Callable) -> None:
    x = torch.randn(200, 4, generator=torch.Generator().manual_seed(0))
    findings = find_issues(made(x, torch.arange(200) % 2), QualitySettings(), wants_labels=False)
    found = build_report(findings, made(x.flip(0) + torch.tensor([0, 0, 2.0, 0]), torch.arange(200) % 2))["drift"]
    assert [row["column"] for row in found["columns"] if row["p_holm"] < 0.05] == ["column 2"]
    assert found["labels"]["p"] == 1
    with pytest.raises(UserError, match="the same shape"):
        build_report(findings, made(x[:, :3], torch.arange(200) % 2))
