"""A model and a tokenizer of transformers, both made on the spot: tiny, and with random weights."""

from pathlib import Path
from typing import Any

import pytest
import torch
from text_datasets import Handwritten

from lightning_modules.config.errors import UserError
from lightning_modules.zoo.model.hf_text_classifier import HFTextClassifier

pytestmark = pytest.mark.slow  # importing transformers takes seconds

PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "film", "is", "good", "bad", "play", "##ing", "!"]
TEXTS = ["the film is good!", "playing bad", "", "the"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import BertConfig, BertForSequenceClassification, BertTokenizer

    home = tmp_path_factory.mktemp("tiny bert")
    (home / "vocab.txt").write_text("\n".join(PIECES))
    BertTokenizer(str(home / "vocab.txt")).save_pretrained(home)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(PIECES), hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=12, num_labels=2,
    )  # fmt: skip
    BertForSequenceClassification(config).save_pretrained(home)
    return home


def data_of(folder: Path) -> Handwritten:
    data = Handwritten(TEXTS, [0, 1, 0, 1], tokenizer=str(folder))
    data.setup()
    return data


def test_the_pieces_of_its_tokenizer_are_the_ids_that_it_would_give_itself(folder: Path) -> None:
    from transformers import AutoTokenizer

    data = data_of(folder)
    model = HFTextClassifier(data.input_shape, 2, str(folder)).eval()
    ids, mask = model.add_special_tokens(data.preprocess(data.arrays.x))
    theirs = AutoTokenizer.from_pretrained(folder)(TEXTS, padding=True, return_tensors="pt")
    assert torch.equal(ids, theirs["input_ids"]) and torch.equal(mask, theirs["attention_mask"])
    with torch.no_grad():
        outputs = model(data.preprocess(data.arrays.x))
        alone: Any = model.network(**{key: theirs[key] for key in ("input_ids", "attention_mask")})
    assert torch.allclose(outputs, alone.logits, atol=1e-6)
    assert data.model_settings()["name"] == str(folder)
    assert data.preprocess.encode(TEXTS).tolist() == data.arrays.x.tolist()


def test_weights_are_those_of_the_folder_or_random_and_the_head_fits_the_classes(folder: Path) -> None:
    first, second = HFTextClassifier([8], 2, str(folder)), HFTextClassifier([8], 2, str(folder))
    other, wider = HFTextClassifier([8], 2, str(folder), pretrained=False), HFTextClassifier([8], 5, str(folder))
    key = "network.bert.embeddings.word_embeddings.weight"
    assert torch.equal(first.state_dict()[key], second.state_dict()[key])
    assert not torch.equal(first.state_dict()[key], other.state_dict()[key])
    assert torch.equal(first.state_dict()[key], wider.state_dict()[key])
    assert wider(torch.tensor([[6, 7, 0]])).shape == (1, 5)
    assert first.state_dict().keys() == other.state_dict().keys()


def test_only_the_head_learns_where_the_backbone_is_frozen(folder: Path) -> None:
    model = HFTextClassifier([8], 2, str(folder), freeze_backbone=True)
    learning = {key for key, parameter in model.named_parameters() if parameter.requires_grad}
    assert learning == {"network.classifier.weight", "network.classifier.bias"}
    model(torch.tensor([[6, 7, 0], [0, 0, 0]])).sum().backward()


def test_what_is_not_there_is_told_and_nothing_is_downloaded(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"set data.download=true to download it"):
        HFTextClassifier([8], 2, "nobody/no-such-model")
    from transformers import AutoTokenizer

    AutoTokenizer.from_pretrained(folder).save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"no text model with safetensors.*model.download=true"):
        HFTextClassifier([8], 2, str(tmp_path))
    with pytest.raises(UserError, match=r"data.tokenizer=NAME"):
        HFTextClassifier([8], 2)
    with pytest.raises(UserError, match=r"texts of 14 tokens.*has 12 positions; set data.max_length=10"):
        HFTextClassifier([12], 2, str(folder))


def test_pickled_weights_are_not_read(folder: Path, tmp_path: Path) -> None:
    for file in folder.iterdir():
        if file.suffix != ".safetensors":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    torch.save(HFTextClassifier([8], 2, str(folder)).network.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match="no text model with safetensors"):
        HFTextClassifier([8], 2, str(tmp_path))
