"""The code blocks of README.md and docs/: files are written, and every command is run, in a project.

A block that needs a GPU, a cluster or the network, or runs for long, says so after its language (```bash long): its training
commands are composed and checked as ``touchstone train`` does before the first step.
"""

import os
import re
import runpy
import shlex
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from claim_project import ROOT
from command_process import run_forked
from hydra.core.override_parser.overrides_parser import OverridesParser
from PIL import Image
from synthetic_audio import sine, write_wav

from lightning_modules.cli.main import VERBS
from lightning_modules.config.check import check_config
from lightning_modules.config.command_line import compose_run

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
MARKERS = ("gpu", "cluster", "network", "long")
FENCE = re.compile(r"^```(\w*) ?([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SMALLER = {"range(5)": "range(2)", "search.trials=40": "search.trials=2"}


class Block(NamedTuple):
    page: str
    language: str
    info: str
    text: str

    @property
    def commands(self) -> list[str]:
        """The commands on one line each, without comments and prompts; other lines of a block with prompts are output."""
        lines = self.text.replace("\\\n", " ").splitlines()
        if any(line.startswith("$ ") for line in lines):
            lines = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
        return [" ".join(map(shlex.quote, words)) for line in lines if (words := shlex.split(line, comments=True))]


BLOCKS = [Block(page.name, *found.groups()) for page in PAGES for found in FENCE.finditer(page.read_text())]
SHELL = [(block, command) for block in BLOCKS if block.language == "bash" for command in block.commands]
RUN = [found for found in SHELL if not found[0].info and re.match(r"(\w+=\S+ )*touchstone ", found[1])]
TRAINING = [command for _, command in SHELL if "touchstone train" in command and "digitz" not in command]
FILES = {block.info.removeprefix("file="): block.text for block in BLOCKS if block.info.startswith("file=")}


def test_every_block_has_a_language_and_few_are_not_run() -> None:
    assert {block.language for block in BLOCKS} == {"bash", "yaml", "python"}
    assert {block.info for block in BLOCKS if block.language == "bash"} <= {"", *MARKERS}
    assert all(block.info.startswith("file=") for block in BLOCKS if block.language != "bash")
    assert len([command for block, command in SHELL if block.info]) <= 16
    assert len(PAGES[0].read_text().split()) <= 1200


def test_every_command_is_one_that_exists() -> None:
    made = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for _, command in SHELL:
        program, *words = shlex.split(re.sub(r"^(\w+=\S+ )*", "", command))
        if program == "touchstone":
            assert words[0] in VERBS, command
        elif program == "make":
            assert words[0] in made, command
        elif program in ("python", "torchrun"):
            assert any((ROOT / word).is_file() for word in words if word.startswith("scripts/")), command
        else:
            assert program == "source", command


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_to_a_file(page: Path) -> None:
    for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
        assert (page.parent / link).exists(), link


@pytest.mark.parametrize("command", [word for word in TRAINING if "two_layers" not in word and "png_" not in word])
def test_a_training_command_is_composed_and_its_config_has_no_mistake(command: str) -> None:
    words = shlex.split(command.partition("touchstone train")[2])
    chosen = []
    for override in OverridesParser.create().parse_overrides([word for word in words if word != "-m"]):
        word = str(override.input_line)
        if word.startswith("sweep="):
            word = word.replace("sweep=", "sweep.name=")
        elif override.is_sweep_override():
            assert "-m" in words
            word = f"{override.key_or_group}={next(override.sweep_string_iterator())}"
        if not word.startswith("hydra"):  # launchers belong to packages that are optional
            chosen.append(word)
    check_config(compose_run(chosen))


def test_the_classifier_of_png_files_takes_no_more_files_and_lines_than_the_template() -> None:
    page = (ROOT / "docs" / "own_module.md").read_text()
    rows = re.findall(r"^\| \[`(\w+\.py)`\]\(\.\./(\S+)\) \| (\d+) \| (\d+), the same file \|$", page, re.MULTILINE)
    files = [
        path for path in (ROOT / "examples" / "png_classifier").iterdir() if path.is_file() and path.stat().st_size
    ]
    assert {ROOT / path for _, path, *_ in rows} == set(files)
    counted = [sum(bool(line.strip()) for line in (ROOT / path).read_text().splitlines()) for _, path, *_ in rows]
    assert [[str(count)] * 2 for count in counted] == [[here, there] for *_, here, there in rows]
    assert f"| **4 files there, 2 here** | **{sum(counted)}** | **{sum(counted) + 2}** |" in page


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in FILES if name.startswith("from_")])
def test_a_program_of_the_page_on_python_runs(
    name: str, store: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_text(FILES[name])
    runpy.run_path(name, run_name="__main__")
    assert [run.info.status for run in store.search_runs()] == ["FINISHED"]


@pytest.fixture
def project(tmp_path: Path, empty_database: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with the files of all pages, and what their commands read."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    folder = tmp_path / "project"
    shutil.copytree(ROOT / "conf", folder / "conf", symlinks=True)
    (folder / "experiments").mkdir()
    shutil.copytree(empty_database.parent, folder / "mlruns")
    for name in ("README.md", "pyproject.toml", "Makefile"):
        (folder / name).write_text((ROOT / name).read_text())
    for name, text in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    (folder / "images").mkdir()
    _write_image(folder / "images" / "one.png")
    shutil.copytree(ROOT / "examples" / "png_classifier", folder / "png_classifier")
    for number in range(12):
        path = folder / "photos" / f"class{number % 2}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        _write_image(path)
    rows = [f"{n % 50 if n % 7 else ''},{'fm'[n % 2]},{'yes' if n % 3 else 'no'}" for n in range(60)]
    (folder / "patients.csv").write_text("\n".join(["age,sex,sick", *rows]))
    (folder / "data").mkdir()
    monkeypatch.setenv("TOUCHSTONE_DATA", str(folder / "data"))
    (folder / "data" / "story.txt").write_text("".join(f"The fox saw {n} birds.\n" for n in range(100)))
    questions = [f"{'who' if n % 2 else 'where'} is {'ABCDEF'[n % 6]} ?" for n in range(60)]
    (folder / "data" / "questions.txt").write_text("\n".join(questions))
    (folder / "data" / "labelled.csv").write_text("\n".join(["text,label", *(f"{q},{q[:3]}" for q in questions)]))
    for number in range(10):
        for kind in ("images", "masks"):
            path = folder / "data" / "cells" / kind / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.uint8([[0, 255] * 8] * 16)).save(path)
    for number in range(12):
        write_wav(
            folder / "data" / "speech" / f"{number}.wav", (sine(300 + 300 * (number % 2))[0] * 32767).numpy(), 16000
        )
    texts = "".join(f"{number}.wav,{'yes' if number % 2 else 'no'}\n" for number in range(12))
    (folder / "data" / "speech" / "transcripts.csv").write_text(f"file,text\n{texts}")
    (folder / "arrays").mkdir()
    for part in ("train", "val"):
        np.save(folder / "arrays" / f"{part}_x.npy", np.zeros((40, 8), dtype=np.float32))
        np.save(folder / "arrays" / f"{part}_y.npy", np.arange(40) % 10)
    return folder


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("page", list(dict.fromkeys(block.page for block, _ in RUN)))
def test_every_command_of_a_page_runs_in_a_project(page: str, project: Path) -> None:
    commands = [(block, command) for block, command in RUN if block.page == page]
    if RUN[0] not in commands and any("RUN_ID" in command for _, command in commands):
        commands.insert(0, RUN[0])
    for block, command in commands:
        _run(project, block, command)


def _run(project: Path, block: Block, command: str) -> None:
    """Run a command, made small; the one that shows mistakes must print what the page prints."""
    settings = dict(re.findall(r"^(\w+)=(\S+) ", command))
    argv = shlex.split(re.sub(r"^(\w+=\S+ )*touchstone ", "", command))
    wrong = "digitz" in command
    argv = [re.sub("|".join(map(re.escape, SMALLER)), lambda m: SMALLER[m.group()], word) for word in argv]
    argv = [word.replace("RUN_ID", "first").replace("OTHER_RUN", "second") for word in argv]
    if argv[0] == "train" and not wrong:
        argv += _tiny(argv)
        argv += ["name=first"] if command == TRAINING[0] else []
    argv += ["name=second"] if any(word.startswith("init_from=") for word in argv) else []
    argv += ["here=true"] if argv[0] == "rerun" else []  # the code may have changed
    ended = run_forked(["-m", "lightning_modules.cli.main", *argv], project, {**os.environ, **settings})
    reports = (["reproduce", "lecun1998"], ["data", "split"])  # a claim without the hash of its data; near duplicates
    expected = 1 if wrong or argv[:2] in reports else 0
    if any(word.startswith("only_if=") for word in argv):
        expected = 3  # the champion is the same run: a tie
    assert ended.returncode == expected, (command, ended.stdout[-2000:], ended.stderr[-2000:])
    if wrong:
        for line in block.text.splitlines()[1:]:
            pattern = re.escape(line).replace("…", ".*").replace(r"\ (all:.*", r"\ \(all:.*")
            assert re.search(pattern, ended.stdout + ended.stderr), line


def _tiny(argv: list[str]) -> list[str]:
    """Overrides that make a training short, of the keys that the command does not set."""
    given = {word.partition("=")[0] for word in argv}
    tiny = {"trainer.max_epochs": "1", "tracking.system_metrics_s": "null", "tracking.pictures": "false"}
    if not any(
        word.startswith(
            (
                "data.name=",
                "resume=",
                "data=lightning_datamodule",
                "data=memmap",
                "data=packed",
                "data=segm",
                "data=sequence_pairs",
                "data=text_lines",
                "data=transcr",
            )
        )
        for word in argv
    ):
        tiny["data.per_class"] = "20"
    if any(word.startswith("resume=") for word in argv):
        tiny = {}
    return [f"{key}={value}" for key, value in tiny.items() if key not in given]


def _write_image(path: Path) -> None:
    Image.fromarray(np.zeros((8, 8), dtype=np.uint8)).save(path)
