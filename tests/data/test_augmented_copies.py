import json
from pathlib import Path

import pytest
import torch

from lightning_modules.cli import augment
from lightning_modules.cli.augment import write_copies
from lightning_modules.config.errors import UserError
from lightning_modules.zoo.data.image_datasets import Digits

WORDS = ("data=digits", "augmentation=image_basic", "augmentation.transforms.crop_flip.padding=1")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("made") / "some copies"
    write_copies(WORDS, out, copies=2)
    return out


def test_copies_of_training_samples_are_trained_on_and_nothing_else_changes(written: Path) -> None:
    plain, data = Digits(), Digits(augmented=written)
    plain.setup()
    data.setup()
    own = len(plain.splits["train"])
    assert len(data.splits["train"]) == 3 * own
    assert all(torch.equal(data.splits[part], plain.splits[part]) for part in ("val", "test"))
    source = plain.splits["train"]
    copied = data.splits["train"][own:]
    assert torch.equal(data.arrays.y[copied], plain.arrays.y[source].repeat(2))
    changed = (data.arrays.x[copied] != plain.arrays.x[source].repeat(2, 1, 1, 1)).flatten(1).any(1)
    assert 0.8 < float(changed.float().mean()) < 1
    assert torch.equal(data.preprocess.shift, plain.preprocess.shift), "fitted on the samples themselves"


def test_a_copy_of_a_sample_that_does_not_train_is_left_out(written: Path) -> None:
    """In another split, or in a share of the training part: what validates must not train as a copy."""
    for settings in ({"split_seed": 5}, {"fraction": 0.1}, {"folds": 5, "fold": 1}):
        plain, data = Digits(**settings), Digits(augmented=written, **settings)  # type: ignore[arg-type]
        plain.setup()
        data.setup()
        original = Digits()
        original.setup()
        trained = int(torch.isin(plain.splits["train"], original.splits["train"]).sum())
        assert len(data.splits["train"]) == len(plain.splits["train"]) + 2 * trained


@pytest.mark.slow
def test_copies_change_the_fingerprint_and_the_same_command_writes_the_same(written: Path, tmp_path: Path) -> None:
    assert Digits(augmented=written).fingerprint() != Digits().fingerprint()
    assert Digits(augmented=written).content_fingerprint() != Digits().content_fingerprint()
    again = write_copies(WORDS, tmp_path / "again", copies=2)
    other = write_copies([*WORDS, "seed=1"], tmp_path / "other", copies=2)
    assert again["sha256"] == json.loads((written / "manifest.json").read_text())["sha256"] != other["sha256"]


def test_damaged_and_foreign_copies_are_refused(written: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copies"
    folder.mkdir()
    with pytest.raises(UserError, match=r"manifest\.json: No such file.*touchstone augment"):
        Digits(augmented=folder).setup()
    manifest = json.loads((written / "manifest.json").read_text())
    for change, message in (
        ({"content": "0" * 64}, "different data: digits with fingerprint 0000"),
        ({"sha256": "0" * 64}, "does not match the checksum in its manifest"),
    ):
        (folder / "manifest.json").write_text(json.dumps({**manifest, **change}))
        (folder / "samples.safetensors").write_bytes((written / "samples.safetensors").read_bytes())
        with pytest.raises(UserError, match=message):
            Digits(augmented=folder).setup()
    (folder / "manifest.json").write_text("[1]")
    with pytest.raises(UserError, match="has no content or no sha256"):
        Digits(augmented=folder).setup()


def test_what_cannot_be_written_is_said_before_anything_is(written: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="exists already; use overwrite=true"):
        write_copies(WORDS, written)
    with pytest.raises(UserError, match="contains no augmented copies"):
        write_copies(WORDS, tmp_path, overwrite=True)
    with pytest.raises(UserError, match="augmentation=none: choose one"):
        write_copies(["data=digits"], tmp_path / "a")
    with pytest.raises(UserError, match="copies=0: expected greater than or equal to 1"):
        augment.main([*WORDS, f"out={tmp_path / 'a'}", "copies=0"])
    assert not list(tmp_path.iterdir())
