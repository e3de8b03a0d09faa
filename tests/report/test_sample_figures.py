import io

import numpy as np
import pytest
import torch
from matplotlib import image
from matplotlib.figure import Figure
from matplotlib.text import Text

from lightning_modules.report.sample_figures import SampleGrid, draw_samples


def colours_of(figure: Figure) -> int:
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=50)
    file.seek(0)
    pixels = (image.imread(file)[..., :3] * 255).astype(np.int64)
    return len(np.unique(pixels @ [65536, 256, 1]))


def shown(domain: str, *shape: int, **settings: int) -> SampleGrid:
    rows = [torch.rand(3, *shape, generator=torch.Generator().manual_seed(k)) for k in range(2)]
    return SampleGrid(domain, rows, [["a", "b", "c"], ["d", "e", "$f$"]], lambda x: str(float(x.sum())), **settings)


@pytest.mark.parametrize(
    ("domain", "shape"),
    [
        ("image", (1, 8, 8)),
        ("image", (3, 9, 5)),
        ("series", (40,)),
        ("series", (12, 29)),
        ("audio", (2000,)),
        ("audio", (1, 20, 30)),
    ],
)
def test_each_draw_of_each_sample_has_its_place_and_title(domain: str, shape: tuple[int, ...]) -> None:
    figure = draw_samples(shown(domain, *shape))
    assert len(figure.axes) == 6
    assert [axes.get_title() for axes in figure.axes] == ["a", "b", "c", "d", "e", "$f$"]
    assert colours_of(figure) > 20


def test_silence_and_constant_images_are_drawn() -> None:
    for domain, x in (("audio", torch.zeros(2, 500)), ("image", torch.full((2, 1, 4, 4), 7.0))):
        colours_of(draw_samples(SampleGrid(domain, [x, x], [["", ""]] * 2, str)))


def test_words_that_augmentation_brought_in_stand_out() -> None:
    texts = {0.0: "the film costs $5 and is good", 1.0: "the movie costs $5 and is good", 2.0: ""}
    rows = [torch.tensor([[0.0]]), torch.tensor([[1.0]]), torch.tensor([[2.0]])]
    figure = draw_samples(SampleGrid("text", rows, [["pos"], ["pos"], ["pos"]], lambda x: texts[float(x)]))
    parts = [part for part in figure.findobj(Text) if isinstance(part, Text)]
    colours = {part.get_text(): part.get_color() for part in parts}
    places = {part.get_text(): part.get_position()[0] for part in parts}
    assert colours["movie"] not in (colours["film"], colours["costs"])
    assert places["movie"] == places["film"]
    assert r"\$5" in colours
    assert "(empty)" in " ".join(colours)
    assert colours_of(figure) > 5
