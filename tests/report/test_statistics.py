import numpy as np
import pytest
from scipy.stats import bootstrap

from lightning_modules.report.statistics import bca_intervals, holm, min_pairs, sign_flip_p, smallest_p

ACCURACIES = [0.91, 0.93, 0.90, 0.95, 0.92, 0.94]


@pytest.mark.parametrize(
    ("differences", "p"),
    [
        ([0.1, 0.2, 0.3, 0.4, 0.5, 0.6], 2 / 64),
        ([-1.0, -2.0, -3.0], 2 / 8),
        ([3.0, 2.0, -1.0], 4 / 8),  # the sums 6, 4, 2, 0, 0, -2, -4, -6: four are as far from 0 as 4
        ([0.0, 0.0, 0.0], 1.0),
        ([0.5], 1.0),
    ],
)
def test_the_sign_flip_p_counts_all_signs(differences: list[float], p: float) -> None:
    assert sign_flip_p([differences]) == [pytest.approx(p)]


def test_samples_of_different_lengths_keep_their_places_and_an_empty_one_has_no_p() -> None:
    assert sign_flip_p([[1.0, 2.0], [], [1.0] * 6, [2.0, 1.0]]) == pytest.approx([0.5, None, 2 / 64, 0.5])


def test_of_many_pairs_signs_are_drawn_and_give_the_same_p_each_time() -> None:
    differences = np.random.default_rng(1).normal(0.3, 1.0, size=20).tolist()
    first, alone = sign_flip_p([differences, [1.0] * 20]), sign_flip_p([differences])
    exact = np.array([differences[:16]])
    assert first[0] == alone[0]
    assert first[1] == pytest.approx(2 / 100_000)  # no draw reaches the sum; the observed one counts on either side
    assert sign_flip_p(exact.tolist())[0] == pytest.approx(_by_enumeration(exact[0]))


def _by_enumeration(differences: np.ndarray) -> float:
    signs = np.array(np.meshgrid(*[[-1, 1]] * len(differences))).reshape(len(differences), -1)
    sums = np.abs(differences @ signs)
    return float((sums >= abs(differences.sum()) - 1e-12).mean())


def test_the_interval_is_scipys_bca_interval() -> None:
    rng = np.random.default_rng(0)
    alone = bootstrap((ACCURACIES,), np.mean, method="BCa", n_resamples=9999, rng=rng, vectorized=True)
    assert bca_intervals([ACCURACIES])[0] == pytest.approx(alone.confidence_interval)


def test_an_interval_does_not_depend_on_what_else_is_asked() -> None:
    others = np.random.default_rng(2).normal(size=(200, 6)).tolist()
    assert bca_intervals([*others, ACCURACIES, [1.0, 2.0, 4.0]])[200] == bca_intervals([ACCURACIES])[0]


def test_too_few_values_have_no_interval_and_equal_values_one_without_width() -> None:
    nearly = [0.3, 0.1 + 0.2, 0.3]
    found = bca_intervals([[], [0.5], [0.5, 0.6], [0.5] * 4, [0.0] * 3, nearly])
    assert found[:3] == [None, None, None]
    assert found[3:5] == [(0.5, 0.5), (0.0, 0.0)]
    assert found[5] == pytest.approx((0.3, 0.3))


def test_holms_correction_is_that_of_the_hand() -> None:
    assert holm([0.01, 0.04, None, 0.03]) == pytest.approx([0.03, 0.06, None, 0.06])
    assert holm([0.5, 0.6, 0.001]) == pytest.approx([1.0, 1.0, 0.003])
    assert holm([]) == []


def test_below_six_pairs_nothing_can_be_significant() -> None:
    assert smallest_p(5) == 0.0625
    assert min_pairs() == 6
    assert min_pairs(comparisons=3) == 7
    assert smallest_p(6) == sign_flip_p([[1.0] * 6])[0]
