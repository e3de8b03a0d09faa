"""What the project ships: every claim can be judged, and the one that docs/claims.md shows can be written so."""

import re
from pathlib import Path

import pytest
from claim_project import ROOT, Project

from lightning_modules.reproduction.claim_report import ClaimRow, rows_to_markdown
from lightning_modules.reproduction.committed_results import read_results
from lightning_modules.reproduction.compose import compose_claim
from lightning_modules.reproduction.discovery import claim_files, find_claims
from lightning_modules.reproduction.lint import lint_composed
from lightning_modules.reproduction.verdict import judge

FOLDERS = sorted({name.partition("/")[0] for name in claim_files()})
MANY_CLAIMS = ("distributed", "lottery_mnist1d")


@pytest.mark.parametrize(
    "folder", [pytest.param(f, marks=pytest.mark.slow) if f in MANY_CLAIMS else f for f in FOLDERS]
)
def test_every_claim_of_a_paper_can_be_judged_and_its_tables_are_those_of_its_committed_values(folder: str) -> None:
    composed = {name: compose_claim(name) for name in find_claims([folder])}
    assert [mistake for one in composed.values() for mistake in lint_composed(one)] == []
    rows = []
    for name, result in read_results(list(composed)).items():
        claim = composed[name].claim
        assert (result.metric, result.unit) == (claim.metric, claim.unit)
        judged = judge(claim, result.values_for(claim))
        assert judged.n == result.n >= 3
        rows.append(ClaimRow(name, claim, judged, result.seconds, result.origin))
    assert [row.claim_id for row in rows if not row.expected] == []
    start = f"| {folder}/".replace("_", "\\_")
    lines = [line for line in rows_to_markdown(rows).splitlines() if line.startswith(start)]
    assert len(lines) == len(rows)
    for file in (ROOT / "experiments" / "README.md", ROOT / "experiments" / folder / "README.md"):
        assert [line for line in file.read_text().splitlines() if line.startswith(start)] == lines


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_paper_has_half_a_page_with_a_place_for_its_table(folder: str) -> None:
    text = (ROOT / "experiments" / folder / "README.md").read_text()
    assert text.count("<!-- claims -->\n") == text.count("<!-- /claims -->\n") == 1
    assert f"touchstone reproduce {folder}" in text


@pytest.mark.slow
def test_the_claim_of_the_docs_lacks_nothing_but_the_hash_of_its_data(project: Project) -> None:
    page = (ROOT / "docs" / "claims.md").read_text()
    found = re.search(r"```yaml file=experiments/(lecun\S+)\n(.*?)```", page, re.DOTALL)
    assert found is not None
    path = project.folder / "experiments" / found[1]
    path.parent.mkdir(parents=True)
    Path(path).write_text(found[2])
    ended = project.reproduce("lecun1998", "lint=true")
    assert ended.returncode == 1
    assert ended.stdout.startswith("lecun1998/linear: 1 mistakes\n  experiments/lecun1998/linear.yaml:4: claim.data: ")
