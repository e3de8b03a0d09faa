"""A corpus that all transforms of texts are shown, and batches of word ids."""

import pytest
from text_datasets import Handwritten

THEMES = ("good great fine film story", "bad awful poor plot scene", "ball goal match team player")


@pytest.fixture(scope="session")
def corpus() -> Handwritten:
    """Three classes of twenty texts, each of words of its theme between common ones; a fifth is not trained on."""
    texts, labels = [], []
    for i in range(60):
        theme = THEMES[i % 3].split()
        picked = [theme[(i // 3 + j) % 5] for j in range(3)]
        texts.append(f"the {picked[0]} of a {picked[1]} . is {picked[2]} here ! only{i}")
        labels.append(i % 3)
    data = Handwritten(texts, labels, test_fraction=0.2, max_length=14)
    data.setup()
    return data
