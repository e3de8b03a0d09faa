"""What the project ships: every claim can be judged, and the one that the README shows can be written so."""

import re
from pathlib import Path

import pytest
from claimed import ROOT, Project

from lightning_modules.reproduction.find import claim_files, find_claims
from lightning_modules.reproduction.lint import lint

FOLDERS = sorted({name.partition("/")[0] for name in claim_files()})


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_claim_of_a_paper_can_be_judged(folder: str) -> None:
    assert [mistake for name in find_claims([folder]) for mistake in lint(name)] == []


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_paper_has_half_a_page_with_a_place_for_its_table(folder: str) -> None:
    text = (ROOT / "experiments" / folder / "README.md").read_text()
    assert text.count("<!-- claims -->\n") == text.count("<!-- /claims -->\n") == 1
    assert f"scripts/reproduce.py {folder}" in text


def test_the_claim_of_the_readme_lacks_nothing_but_the_hash_of_its_data(project: Project) -> None:
    readme = (ROOT / "README.md").read_text()
    found = re.search(r"```yaml\n# experiments/(\S+)\n(.*?)```", readme, re.DOTALL)
    assert found is not None
    path = project.folder / "experiments" / found[1]
    path.parent.mkdir(parents=True)
    Path(path).write_text(found[2])
    ended = project.reproduce("lecun1998", "--lint")
    assert ended.returncode == 1
    assert ended.stdout.startswith("lecun1998/linear: 1 mistakes\n  experiments/lecun1998/linear.yaml:4: claim.data: ")
