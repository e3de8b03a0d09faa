"""Exact and near duplicates, leaks and conflicting labels."""

from collections.abc import Callable

import numpy as np
import torch

from lightning_modules.data.in_memory import RawDataset
from lightning_modules.quality import similar_pairs as search
from lightning_modules.quality.duplicate_samples import (
    Duplicates,
    conflicts,
    exact_groups,
    groups_of,
    leaks,
    summarize_duplicates,
)
from lightning_modules.quality.embedding import embed, embed_ids, embed_rows
from lightning_modules.quality.findings import find_issues
from lightning_modules.quality.samples import collect_samples
from lightning_modules.quality.settings import QualitySettings
from lightning_modules.quality.similar_pairs import find_similar_pairs, knn_distance


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_equal_samples_are_found_across_the_pool_and_the_official_test_part(made: Callable) -> None:
    x = draw(30, 4)
    x[7] = x[3]
    test = draw(10, 4, seed=1)
    test[2] = x[3]
    samples = collect_samples(made(x, torch.arange(30) % 2, test=(test, torch.arange(10) % 2)))
    assert [group.tolist() for group in exact_groups(samples)] == [[3, 7, 32]]
    assert samples.describe(32) == "test 2" and samples.place(32) == ("test", 2)


def test_the_search_finds_what_all_pairs_show(monkeypatch) -> None:
    monkeypatch.setattr(search, "TILE_SIZE", 37)  # several blocks, the last one cut
    x = draw(200, 60)
    x[150:] = x[:50] + 0.15 * draw(50, 60, seed=1)
    for components in (8, 60):  # with and without what PCA leaves out
        found = find_similar_pairs(embed_rows(lambda i: x[i], 200, components), 0.9)
        centred = torch.nn.functional.normalize(x.double() - x.double().mean(0), dim=1)
        cosine = (centred @ centred.T).fill_diagonal_(-1)
        expected = (cosine.triu(1) >= 0.9).nonzero()
        assert len(expected) >= 50 and np.array_equal(found.pairs, expected.numpy())
        assert np.allclose(found.similarity, cosine[tuple(expected.T)], atol=1e-5)
    assert np.allclose(found.nearest, cosine.amax(1), atol=1e-5)  # of the exact embedding


def test_the_length_of_a_row_counts_in_tables_and_not_in_images() -> None:
    x = torch.cat([draw(50, 6), 3 * draw(1, 6), 4.5 * draw(1, 6)])
    x -= x.mean(0)
    x[51] = 1.5 * x[50]
    by_angle = find_similar_pairs(embed_rows(lambda i: x[i], 52, 10), 0.99)
    by_distance = find_similar_pairs(embed_rows(lambda i: x[i], 52, 10, by_distance=True), 0.99)
    assert [50, 51] in by_angle.pairs.tolist() and [50, 51] not in by_distance.pairs.tolist()


def test_a_similarity_of_tables_is_one_minus_the_squared_distance_in_units_of_random_pairs(made: Callable) -> None:
    x = draw(400, 5) * torch.tensor([1.0, 100.0, 0.01, 1.0, 1.0])  # the unit of a column does not matter
    found = find_similar_pairs(embed(collect_samples(made(x, torch.arange(400) % 2))), 0.5)
    z = (x - x.mean(0)) / x.std(0, correction=0)
    a, b = found.pairs.T
    assert np.allclose(found.similarity, 1 - (z[a] - z[b]).square().sum(1).numpy() / 10, atol=1e-4)


def test_near_duplicates_planted_in_digits_are_found_and_hardly_anything_else(
    made: Callable, digits: RawDataset
) -> None:
    source = torch.arange(0, 1000, 10)
    noise = 8 * draw(100, 1, 8, 8)  # of 255
    copies = (digits.x[source].float() + noise).round().clamp(0, 255).to(torch.uint8)
    data = made(torch.cat([digits.x, copies]), torch.cat([digits.y, digits.y[source]]), "image")
    samples = collect_samples(data)
    found = find_similar_pairs(embed(samples), 0.99)
    planted = set(zip(source.tolist(), range(1797, 1897), strict=True))
    pairs = {(int(a), int(b)) for a, b in found.pairs}
    assert len(planted & pairs) >= 97 and len(pairs - planted) <= 5


def test_many_equal_samples_take_no_memory_and_one_group(made: Callable) -> None:
    x = draw(3000, 3)
    x[::2] = x[0]
    found = find_issues(made(x, torch.arange(3000) % 2), QualitySettings(), wants_labels=False)
    assert len(found.duplicates.exact) == 1 and len(found.duplicates.exact[0]) == 1500
    assert len(found.duplicates.near) < 100 and np.isnan(found.nearest[2]) and np.isfinite(found.nearest[0])


def test_many_near_samples_keep_few_partners_each_and_hang_together(monkeypatch) -> None:
    monkeypatch.setattr(search, "TILE_SIZE", 256)
    x = torch.cat([torch.full((500, 8), 5.0) + 0.01 * draw(500, 8), draw(500, 8, seed=1)])
    found = find_similar_pairs(embed_rows(lambda i: x[i], 1000, 8), 0.99)
    assert len(found.pairs) <= 1000 * search.MAX_PARTNERS * 4
    assert max(len(group) for group in groups_of(found.pairs, 1000)) >= 500


def test_texts_are_near_by_their_words_and_empty_ones_by_nothing(made: Callable) -> None:
    texts = torch.tensor([[1, 2, 3, 4, 1, 5, 6], [1, 2, 3, 4, 1, 5, 6], [7, 8, 9, 10, 0, 0, 0], [0] * 7, [0] * 7])
    found = find_similar_pairs(embed_ids(texts), 0.9)
    assert found.pairs.tolist() == [[0, 1]]
    ids = torch.tensor([[1, 2, 3, 4], [4, 3, 2, 1], [5, 6, 0, 0], [0, 0, 0, 0]], dtype=torch.int32)
    samples = collect_samples(made(ids.repeat(3, 1), torch.arange(12) % 2, "text"))
    assert {(0, 1), (4, 5)} <= {tuple(pair) for pair in find_similar_pairs(embed(samples), 0.9).pairs.tolist()}
    assert samples.text(2) == "w5 w6"


def test_leaks_and_conflicts_are_counted_by_parts(made: Callable) -> None:
    x, y = draw(100, 4), torch.arange(100) % 2
    probe = made(x, y)
    train, test = (int(probe.splits[part][0]) for part in ("train", "test"))
    x[test] = x[train]
    y[test] = y[train]
    other = int(probe.splits["train"][1])
    last = int(probe.splits["train"][-1])
    x[last] = x[other]
    y = y.clone()
    samples = collect_samples(made(x, y))
    duplicates = Duplicates(exact_groups(samples), np.zeros((0, 2), np.int64), np.zeros(0))
    expected = [sorted([train, test])]
    assert [sorted(group) for group in leaks(duplicates, samples).get("train+test", [])][:1] == expected
    counts = summarize_duplicates(duplicates, samples)
    assert counts["exact_copies"] == 2 and counts["conflicting_exact_groups"] == int(y[last] != y[other])
    assert len(conflicts(duplicates.exact, samples)) == counts["conflicting_exact_groups"]


def test_the_isolated_sample_stands_out(made: Callable) -> None:
    x = draw(500, 4)
    x[123] = 9.0
    score = knn_distance(embed(collect_samples(made(x, torch.arange(500) % 2))))
    assert int(score.argmax()) == 123 and score[123] > 10 * np.median(score)


def test_interactions_have_exact_duplicates_only(made: Callable) -> None:
    x = torch.randint(0, 30, (200, 2), generator=torch.Generator().manual_seed(0))
    found = find_issues(made(x, torch.rand(200), "interactions"), QualitySettings())
    assert found.embedding is None and found.duplicates.exact and "no distance" in found.notes[0]


def test_recordings_are_compared_by_their_spectrum(made: Callable) -> None:
    time = torch.arange(4000) / 8000
    pitch = 100 + 20 * torch.arange(40)
    x = (8000 * torch.sin(2 * torch.pi * pitch[:, None] * time)).to(torch.int16)
    x[39] = (8000 * torch.sin(2 * torch.pi * 300 * time + 1)).to(torch.int16)  # as sample 10, with another phase
    x[38] = 0
    data = made(x, torch.arange(40) % 2, "audio")
    data.sample_rate = 8000
    found = find_issues(data, QualitySettings(near=0.98))
    assert [10, 39] in found.duplicates.near.tolist() and len(found.duplicates.near) < 20
