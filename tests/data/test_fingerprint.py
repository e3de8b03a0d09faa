import json
from pathlib import Path

import numpy as np
import pytest
import torch

from lightning_modules.config.errors import UserError
from lightning_modules.data.fingerprint import cached_digest, describe_preprocess, tensor_digest
from lightning_modules.data.in_memory import RawDataset
from lightning_modules.data.preprocess import Standardize
from lightning_modules.data.tabular import Tabular
from lightning_modules.zoo.data.image_datasets import Digits, FashionMNIST


class LastPixelChanged(Digits):
    def load(self) -> RawDataset:
        arrays = super().load()
        assert isinstance(arrays.x, torch.Tensor)
        arrays.x[-1, 0, 7, 7] += 1
        return arrays


class LastLabelChanged(Digits):
    def load(self) -> RawDataset:
        arrays = super().load()
        arrays.y[-1] = (arrays.y[-1] + 1) % 10
        return arrays


def test_one_value_one_label_the_split_or_the_preprocessing_changes_it() -> None:
    prints = [
        data.fingerprint()
        for data in (
            Digits(),
            LastPixelChanged(),
            LastLabelChanged(),
            Digits(split_seed=1),
            Digits(per_class=10),
            Digits(val_fraction=0.2),
            Tabular(name="iris"),
            Tabular(name="iris", scaling="none"),
            Tabular(name="iris", scaling="normalise"),
        )
    ]
    assert len(set(prints)) == len(prints)
    assert all(len(print_) == 64 for print_ in prints)


def test_what_does_not_change_the_data_does_not_change_it() -> None:
    assert Digits().fingerprint() == Digits(seed=5, batch_size=7, order="sequential", drop_last=True).fingerprint()


def test_it_stays_what_runs_on_other_days_and_machines_have_recorded() -> None:
    assert Digits(split_seed=3).fingerprint() == "451e40ac086792ae4b8b46a5341e84a9ebf45e06403543f3c38bd40c5a21c1e6"


def test_dtype_and_shape_count() -> None:
    x = torch.zeros(4, 2, dtype=torch.int32)
    assert len({tensor_digest(x), tensor_digest(x.view(2, 4)), tensor_digest(x.float()), tensor_digest(x, x)}) == 4


def test_the_constants_of_the_config_count_and_fitted_ones_follow_from_the_data() -> None:
    assert describe_preprocess(Standardize([0.5], [0.2])) != describe_preprocess(Standardize([0.5], [0.3]))
    assert describe_preprocess(Standardize([0.5], [0.2], fitted=True)) == describe_preprocess(
        Standardize([0.5], [0.3], fitted=True)
    )
    assert describe_preprocess(Standardize([0.5], [0.2])) != describe_preprocess(Standardize([0.5], [0.2], fitted=True))


def test_an_unexpected_fingerprint_is_refused_with_both() -> None:
    expected = Digits().fingerprint()
    Digits(expected_fingerprint=expected).setup()
    with pytest.raises(UserError) as caught:
        Digits(expected_fingerprint=expected, split_seed=1).setup()
    assert expected in str(caught.value)
    assert Digits(split_seed=1).fingerprint() in str(caught.value)


def test_a_files_hash_is_remembered_until_the_file_changes(tmp_path: Path) -> None:
    file, calls = tmp_path / "data.bin", []

    def digest() -> str:
        calls.append(1)
        return tensor_digest(torch.from_numpy(np.fromfile(file, np.uint8)))

    file.write_bytes(b"one")
    first = cached_digest(tmp_path / "cache", "kind", [file], digest)
    assert cached_digest(tmp_path / "cache", "kind", [file], digest) == first
    assert len(calls) == 1
    file.write_bytes(b"three")
    assert cached_digest(tmp_path / "cache", "kind", [file], digest) != first
    assert len(calls) == 2
    assert all(set(json.loads(entry.read_text())) >= {"digest"} for entry in (tmp_path / "cache").rglob("*.json"))


def test_a_damaged_or_unwritable_cache_is_no_error(tmp_path: Path) -> None:
    file = tmp_path / "data.bin"
    file.write_bytes(b"one")
    cached_digest(tmp_path / "cache", "kind", [file], lambda: "a" * 64)
    for entry in (tmp_path / "cache").rglob("*.json"):
        entry.write_text("{")
    assert cached_digest(tmp_path / "cache", "kind", [file], lambda: "b" * 64) == "b" * 64
    assert cached_digest(file / "no folder", "kind", [file], lambda: "c" * 64) == "c" * 64


def test_a_set_of_files_has_the_same_fingerprint_from_the_cache(fashion_mnist: Path, own_cache: Path) -> None:
    first = FashionMNIST().fingerprint()
    assert len(list(own_cache.rglob("*.json"))) == 1
    assert FashionMNIST().fingerprint() == first
