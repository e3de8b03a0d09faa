"""Synonym replacement and insertion; synonyms come from a table, WordNet, or similar contexts in the training part.

Longer than other files, because it also reads and computes the synonyms.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import torch
from scipy.sparse import coo_matrix, diags
from sklearn.decomposition import TruncatedSVD
from torch import Tensor

from lightning_modules.augmentation.per_sample import to_device_of
from lightning_modules.augmentation.text.text_transform import (
    TextTransform,
    compact,
    num_words,
    row_lengths,
    sample_positions,
    shuffle_positions,
)
from lightning_modules.config.bounds import Count, Fraction, bounded
from lightning_modules.config.errors import UserError
from lightning_modules.zoo.data.text_data import TextData

Synonyms = dict[str, list[str]]
_WORDNET_FILES = ("data.noun", "data.verb", "data.adj", "data.adv")


class SynonymTransform(TextTransform):
    """Base of synonym transforms; stop words and punctuation have no synonyms and are none.

    Only words of the training part are inserted, because a model does not know others.

    Args:
        share: fraction of the words, at least one.
        source: "neighbours" (words with similar contexts in the training part), a table of synonyms (.tsv), or the
            folder of WordNet's database.
        most: maximum number of neighbours per word.
    """

    @bounded
    def __init__(
        self, share: Fraction = 0.1, source: str = "neighbours", most: Count = 5, probability: float = 1.0
    ) -> None:
        super().__init__(probability)
        self.share, self.source, self.most = share, str(source), most
        self.register_buffer("table", torch.zeros(1, 1, dtype=torch.int64), persistent=False)
        self.table: Tensor

    def prepare(self, data: TextData) -> None:
        """Build the table of synonyms by word id.

        Raises UserError if the source is missing, or has no synonym for any word of the training part.
        """
        from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

        x, words = data.arrays.x.index_select(0, data.splits["train"]), data.words
        if self.source == "neighbours":
            table = distributional_neighbors(x, len(words), self.most)
        else:
            place = Path(self.source).expanduser()
            synonyms = read_table(place) if place.suffix else read_wordnet(place)
            table = synonym_ids(synonyms, words, torch.bincount(x.flatten(), minlength=len(words) + 2) > 0)
        fixed = torch.zeros(len(table), dtype=torch.bool)  # neither replaced nor used as replacement
        for i, word in enumerate(words, start=1):
            fixed[i] = word in ENGLISH_STOP_WORDS or not any(letter.isalpha() for letter in word)
        table = compact(table, (table != 0) & ~fixed[table] & ~fixed[:, None])
        if not table.any():
            raise UserError(
                f"augmentation: {type(self).__name__}.source={self.source}: no training word of {data.name} has a synonym"
            )
        self.table = table

    def has_synonym(self, x: Tensor) -> Tensor:
        """Return bool [n, L]: which words have synonyms."""
        return (self.table.to(x.device)[:, 0] != 0)[x.long().clamp(max=len(self.table) - 1)]

    def draw_synonym(self, words: Tensor, draws: Tensor) -> Tensor:
        """Return a synonym of each word, selected by `draws` in [0, 1); 0 for a word without synonyms."""
        table = self.table.to(words.device)
        words = words.long().clamp(max=len(table) - 1)
        known = (table != 0).sum(1)[words]
        return table[words, (draws * known).long().clamp(max=table.shape[1] - 1)]


class ReplaceWords(SynonymTransform):
    """Replaces random words by synonyms (Wei and Zou 2019, "EDA", synonym replacement)."""

    def transform_samples(self, x: Tensor, generator: torch.Generator) -> Tensor:
        chosen = sample_positions(self.has_synonym(x), num_words(row_lengths(x), self.share), generator)
        draws = to_device_of(x, torch.rand(x.shape, generator=generator))
        return torch.where(chosen, self.draw_synonym(x, draws).to(x.dtype), x)


class InsertWords(SynonymTransform):
    """Inserts synonyms of random words at random places (Wei and Zou 2019, "EDA", random insertion).

    As many as `share` requests and the row can hold: the longest text of a corpus is unchanged.
    """

    def transform_samples(self, x: Tensor, generator: torch.Generator) -> Tensor:
        lengths, width = row_lengths(x), x.shape[1]
        can = self.has_synonym(x)
        wanted = num_words(lengths, self.share).minimum(can.sum(1)).minimum(width - lengths)
        order = shuffle_positions(can, generator)
        draws, places = to_device_of(x, torch.rand(2, *x.shape, generator=generator))
        slots = int(wanted.max())
        if slots == 0:
            return x.clone()
        new = self.draw_synonym(x.gather(1, order[:, :slots]), draws[:, :slots]).to(x.dtype)
        used = torch.arange(slots, device=x.device) < wanted[:, None]
        before = (places[:, :slots] * (lengths[:, None] + 1)).floor() - 0.5  # between two words, or at an end
        column = torch.arange(width, device=x.device, dtype=before.dtype).expand(x.shape)
        key = torch.cat([column.masked_fill(x == 0, torch.inf), before.masked_fill(~used, torch.inf)], dim=1)
        both = torch.cat([x, new.masked_fill(~used, 0)], dim=1)
        return both.gather(1, key.argsort(dim=1, stable=True)[:, :width])


def read_table(path: Path) -> Synonyms:
    """Read a table: one word and its synonyms per line, separated by tabs.

    Raises UserError if there is no such file, or no word has a synonym.
    """
    if not path.is_file():
        raise UserError(f"augmentation: source={path}: file does not exist")
    rows = [line.strip().split("\t") for line in path.read_text(encoding="utf-8").splitlines()]
    found = {row[0].strip(): [word.strip() for word in row[1:] if word.strip()] for row in rows}
    if not any(found.values()):
        raise UserError(
            f"augmentation: source={path}: expected a word and its synonyms in each line, separated by tabs"
        )
    return found


def read_wordnet(folder: Path) -> Synonyms:
    """Read lower-case words that share a synset of WordNet (Miller 1995; wndb(5WN)), without multi-word expressions.

    Raises UserError if the folder is not that of WordNet, or a file is damaged.
    """
    if not all((folder / name).is_file() for name in _WORDNET_FILES):
        raise UserError(
            f"augmentation: source={folder}: WordNet's {', '.join(_WORDNET_FILES)} are not there; `apt-get install "
            "wordnet-base` installs them in /usr/share/wordnet. A table of synonyms (.tsv) or source=neighbours needs no WordNet"
        )
    found: dict[str, dict[str, None]] = {}
    for name in _WORDNET_FILES:
        for number, line in enumerate((folder / name).read_text(encoding="latin-1").splitlines(), start=1):
            if line.startswith(" ") or not line:  # the licence
                continue
            try:
                members = _synset_words(line)
            except (IndexError, ValueError) as error:
                raise UserError(f"{folder / name}, line {number}: not a synset of WordNet") from error
            for word in members:
                found.setdefault(word, {}).update((other, None) for other in members if other != word)
    return {word: list(others) for word, others in found.items() if others}


def _synset_words(line: str) -> list[str]:
    """Return the words of a synset line: offset, file, type, count in hexadecimal, then pairs (word, number)."""
    fields = line.split(" ")
    words = [fields[4 + 2 * i] for i in range(int(fields[3], 16))]
    plain = (word.partition("(")[0].lower() for word in words)  # adjectives have a syntactic marker: (a), (p), (ip)
    return list(dict.fromkeys(word for word in plain if "_" not in word))


def distributional_neighbors(
    x: Tensor, corpus: int, most: int = 5, dim: int = 50, window: int = 2, min_count: int = 3
) -> Tensor:
    """Return int64 [corpus + 2, most]: the nearest words of each word id by cosine similarity, padded with 0.

    Vectors are the truncated SVD of positive pointwise mutual information (Levy, Goldberg and Dagan 2015, equations 3 and 4
    with the root of the singular values), counted on the texts `x` [N, L] of the training part. Near words may be antonyms.

    Args:
        corpus: number of words; ids start at 1.
        window: context words on either side.
        min_count: rarer words have no neighbours and are none.
    """
    counts = torch.bincount(x.flatten(), minlength=corpus + 2)
    known = (counts[1 : corpus + 1] >= min_count).nonzero().squeeze(1) + 1
    table = torch.zeros(corpus + 2, most, dtype=torch.int64)
    number = torch.full((corpus + 2,), -1)
    number[known] = torch.arange(len(known))
    information = _pmi_matrix(number[x.long()], len(known), window)
    if len(known) <= 3 or information is None:
        return table
    svd = TruncatedSVD(min(dim, len(known) - 1), algorithm="arpack", random_state=0)
    scaled, values = svd.fit_transform(information), svd.singular_values_
    real = values > 1e-6 * values.max()  # a corpus with few words may have values of 0, or of rounding below it
    vectors = torch.from_numpy(scaled[:, real] / np.sqrt(values[real])).float()
    vectors = torch.nn.functional.normalize(vectors, dim=1)
    width = min(most, len(known) - 1)
    for begin in range(0, len(known), 1024):  # bounds memory
        # rounded, because the last bits may depend on the machine and decide ties
        part = (vectors[begin : begin + 1024] @ vectors.T).round(decimals=4)
        part[torch.arange(len(part)), torch.arange(begin, begin + len(part))] = -2.0  # exclude the word itself
        near, who = part.topk(width, dim=1)
        table[known[begin : begin + 1024], :width] = torch.where(near > 0, known[who], 0)
    return table


def _pmi_matrix(places: Tensor, size: int, window: int) -> object:
    """Return the positive pointwise mutual information of words in a window, sparse [size, size]; None if it is 0.

    Args:
        places: number of the word at each position [N, L], -1 for words that do not count.
    """
    pairs = [torch.stack([places[:, :-step].flatten(), places[:, step:].flatten()]) for step in range(1, window + 1)]
    row, column = torch.cat([pair[:, (pair >= 0).all(0)] for pair in pairs], dim=1).numpy()
    together = coo_matrix((np.ones(len(row)), (row, column)), shape=(size, size))
    together = (together + together.T).tocsr()
    totals = np.asarray(together.sum(1)).ravel()
    inverse = diags(1 / np.maximum(totals, 1))
    ratio = (inverse @ together @ inverse * totals.sum()).tocoo()
    information = np.maximum(np.log(ratio.data), 0)
    found = coo_matrix((information, (ratio.row, ratio.col)), shape=ratio.shape).tocsr()
    found.eliminate_zeros()
    return found if found.nnz else None


def synonym_ids(synonyms: Mapping[str, Iterable[str]], words: list[str], allowed: Tensor) -> Tensor:
    """Return int64 [len(words) + 2, most]: the `allowed` (bool by id) synonyms of each word id, padded with 0."""
    ids = {word: i for i, word in enumerate(words, start=1)}
    rows = [[ids[other] for other in synonyms.get(word, ()) if other in ids and allowed[ids[other]]] for word in words]
    table = torch.zeros(len(words) + 2, max([1, *map(len, rows)]), dtype=torch.int64)
    for i, row in enumerate(rows, start=1):
        table[i, : len(row)] = torch.tensor(row, dtype=torch.int64)
    return table
