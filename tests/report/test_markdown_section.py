"""Replacing a section of a Markdown file between its markers."""

from collections.abc import Callable
from pathlib import Path

import pytest

from lightning_modules.config.errors import UserError
from lightning_modules.report.tables import replace_section

BEFORE = "# Title\n\n<!-- claims -->\nold\n<!-- /claims -->\nafter\n"


@pytest.fixture
def readme(tmp_path: Path) -> Callable[[str], Path]:
    def make(text: str) -> Path:
        (tmp_path / "README.md").write_bytes(text.encode())
        return tmp_path / "README.md"

    return make


def test_only_what_stands_between_the_marks_is_replaced(readme: Callable[[str], Path]) -> None:
    file = readme(BEFORE)
    assert replace_section(file, "new\ntable\n")
    wanted = "# Title\n\n<!-- claims -->\n\nnew\ntable\n\n<!-- /claims -->\nafter\n"
    assert file.read_text() == wanted
    assert not replace_section(file, "new\ntable\n")
    assert file.read_text() == wanted
    assert [path.name for path in file.parent.iterdir()] == ["README.md"]


def test_marks_inside_a_line_and_other_marks_are_left_alone(readme: Callable[[str], Path]) -> None:
    file = readme(f"between `<!-- claims -->` and `<!-- /claims -->`\n<!-- other -->\nx\n<!-- /other -->\n{BEFORE}")
    replace_section(file, "new")
    assert "between `<!-- claims -->` and" in file.read_text()
    assert "<!-- other -->\nx\n<!-- /other -->" in file.read_text()
    assert replace_section(file, "y", mark="other")
    assert "<!-- other -->\n\ny\n\n<!-- /other -->" in file.read_text()


def test_line_ends_rights_and_links_stay(readme: Callable[[str], Path]) -> None:
    file = readme(BEFORE.replace("\n", "\r\n") + "ende: ü")
    file.chmod(0o640)
    link = file.with_name("link.md")
    link.symlink_to(file)
    replace_section(link, "a\nb")
    assert b"<!-- claims -->\r\n\r\na\r\nb\r\n\r\n<!-- /claims -->\r\nafter\r\nende: \xc3\xbc" in file.read_bytes()
    assert link.is_symlink()
    assert file.stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("nothing\n", "none and none"),
        ("<!-- claims -->\n", "1 and none"),
        ("<!-- /claims -->\n<!-- claims -->\n", "2 and 1"),
        (BEFORE + BEFORE, "3, 9 and 5, 11"),
    ],
)
def test_missing_reversed_and_doubled_marks_are_told_and_nothing_is_written(
    readme: Callable[[str], Path], text: str, lines: str
) -> None:
    file = readme(text)
    with pytest.raises(UserError, match=f"README.md.*<!-- claims -->.*<!-- /claims -->.*{lines}"):
        replace_section(file, "new")
    assert file.read_text() == text


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="absent"):
        replace_section(tmp_path / "absent.md", "x")


def test_a_write_that_fails_leaves_the_old_file(readme: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    file = readme(BEFORE)

    def full(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="no space"):
        replace_section(file, "new")
    assert file.read_text() == BEFORE
    assert [path.name for path in file.parent.iterdir()] == ["README.md"]
