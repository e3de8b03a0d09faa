"""Which samples validation and test see, and what they are told that the config says otherwise."""

from typing import Any

import pytest
import torch

from lightning_modules.config.errors import UserError
from lightning_modules.zoo.data.image_datasets import Digits


def shown(loader: object) -> torch.Tensor:
    return torch.cat([batch["index"] for batch in loader])  # type: ignore[attr-defined]


def test_watching_gives_a_validation_the_test_part_beside_its_own() -> None:
    data = Digits(watch_test=True)
    val, test = data.val_dataloader()
    assert data.val_parts() == ("val", "test")
    assert torch.equal(shown(val), data.splits["val"])
    assert torch.equal(shown(test), data.splits["test"])


def test_without_a_validation_part_the_test_part_alone_is_watched() -> None:
    data = Digits(watch_test=True, val_fraction=0)
    (test,) = data.val_dataloader()
    assert data.val_parts() == ("test",)
    assert torch.equal(shown(test), data.splits["test"])


def test_nothing_is_watched_unless_it_is_asked_for() -> None:
    data = Digits()
    assert torch.equal(shown(data.val_dataloader()), data.splits["val"])
    assert data.val_parts() == ("val",)


def test_the_last_smaller_batch_of_an_evaluation_can_be_left_out() -> None:
    data = Digits(eval_batch_size=50, eval_drop_last=True, drop_last=False, batch_size=40)
    for part, loader in (("val", data.val_dataloader()), ("test", data.test_dataloader())):
        whole = len(data.splits[part]) // 50 * 50
        assert 0 < whole < len(data.splits[part])
        assert torch.equal(shown(loader), data.splits[part][:whole])
    assert len(shown(data.train_dataloader())) == len(data.splits["train"])


def test_how_parts_are_evaluated_is_no_part_of_the_fingerprint() -> None:
    assert Digits(watch_test=True, eval_drop_last=True, eval_batch_size=20).fingerprint() == Digits().fingerprint()


@pytest.mark.parametrize("key", ["watch_test", "eval_drop_last", "drop_last"])
def test_a_switch_is_true_or_false(key: str) -> None:
    settings: Any = {key: "some"}
    with pytest.raises(UserError, match=rf"Digits\.{key}=some: expected true or false"):
        Digits(**settings)


def test_a_part_whose_only_batch_would_be_left_out_is_an_error() -> None:
    with pytest.raises(UserError, match=r"data\.eval_batch_size=512 is more than the 180 validation samples"):
        Digits(eval_drop_last=True).setup()
    Digits(eval_drop_last=True, eval_batch_size=180).setup()
    Digits(eval_drop_last=True, eval_batch_size=300, val_fraction=0).setup()  # a part that is not there is no mistake


def test_what_is_not_there_cannot_be_watched() -> None:
    with pytest.raises(UserError, match=r"data\.watch_test=true, but there is no test part"):
        Digits(watch_test=True, test_fraction=0).setup()
