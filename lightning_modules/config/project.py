"""Where our configs, the user's project and the files of runs are: the one definition for a checkout and an installed wheel.

A project is a folder with conf/ and pyproject.toml: the working directory or the nearest of its parents.
"""

import importlib.util
import os
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path

from lightning_modules.config.errors import UserError

PACKAGE = Path(__file__).resolve().parents[1]


CHECKOUT = (
    PACKAGE.parent if (PACKAGE.parent / "conf" / "train.yaml").is_file() else None
)  # None: a wheel (see setup.py)
SHIPPED = CHECKOUT or PACKAGE  # has conf/ and template/
CONF = SHIPPED / "conf"


def _is_project(folder: Path) -> bool:
    another_checkout = CHECKOUT and folder != CHECKOUT and (folder / PACKAGE.name).is_dir()  # its verbs are its own
    return not another_checkout and (folder / "conf").is_dir() and (folder / "pyproject.toml").is_file()


def project_folder() -> Path | None:
    """The project that the working directory is in; None outside of one."""
    here = Path.cwd()
    return next((folder for folder in (here, *here.parents) if _is_project(folder)), None)


def home() -> Path:
    """The folder of mlruns/ and data/: TOUCHSTONE_HOME, else the project, the checkout or the working directory."""
    if given := os.environ.get("TOUCHSTONE_HOME"):
        return Path(given).expanduser().absolute()
    return project_folder() or CHECKOUT or Path.cwd()


def runs_folder() -> Path:
    """The folder of the default store and of the files of runs."""
    return home() / "mlruns"


def code_folder() -> Path:
    """The folder whose git state is that of a run: this checkout, or with an installed package the user's project."""
    return CHECKOUT or home()


def config_roots() -> list[Path]:
    """The folders of config groups; where two have the same option, the first counts.

    Those of ``--config-dir`` and ``hydra.searchpath``, the project's conf/, ours.
    """
    given = [Path(name) for name in os.environ.get("TOUCHSTONE_CONFIG_DIRS", "").split(os.pathsep) if name]
    project = project_folder()
    found = [*given, *([project / "conf"] if project else []), CONF]
    return list(dict.fromkeys(folder.resolve() for folder in found))


def add_config_roots(places: Sequence[str]) -> None:
    """Add folders, ``file://…`` or ``pkg://…`` to the config roots of this process and of those that it starts.

    Raises UserError for one that does not exist.
    """
    folders = [_config_folder(place) for place in places]
    before = os.environ.get("TOUCHSTONE_CONFIG_DIRS")
    os.environ["TOUCHSTONE_CONFIG_DIRS"] = os.pathsep.join([*map(str, folders), *([before] if before else [])])


def _config_folder(place: str) -> Path:
    kind, _, name = place.rpartition("://")
    folder = Path(name).expanduser().absolute()
    if kind == "pkg":
        top, *parts = name.split(".")
        spec = importlib.util.find_spec(top)
        folder = Path(next(iter(spec.submodule_search_locations or ()), "") if spec else top, *parts)
    if not folder.is_dir():
        raise UserError(f"{place}: no such folder of configs")
    return folder


def enter_project() -> None:
    """Fix what the working directory decides, for this process and all that it starts, wherever they run later.

    The project's folder, or the working directory outside of one, is importable; the project's trusted packages and
    configs, and the place of the store, are in the environment.
    """
    project = project_folder()
    folder = project or Path.cwd()
    if not (folder / PACKAGE.name).is_dir():  # another checkout must not replace the package that runs
        sys.path[:0] = [] if str(folder) in sys.path else [str(folder)]
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), str(folder)]))
    if project and "TOUCHSTONE_TRUST" not in os.environ:
        os.environ["TOUCHSTONE_TRUST"] = ",".join(_project_trust(project / "pyproject.toml"))
    if project and project != CHECKOUT:
        add_config_roots([str(project / "conf")])
    os.environ["TOUCHSTONE_HOME"] = str(home())


def _project_trust(file: Path) -> list[str]:
    try:
        content = tomllib.loads(file.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: not valid TOML: {error}") from error
    return package_names(
        content.get("tool", {}).get("touchstone", {}).get("trust") or [], f"{file}: tool.touchstone.trust"
    )


def package_names(given: object, where: str) -> list[str]:
    """The names of packages in a list or a comma-separated string. Raises UserError for anything else."""
    names = given.split(",") if isinstance(given, str) else given
    if not isinstance(names, Sequence) or not all(
        isinstance(name, str) and all(part.isidentifier() for part in name.strip().split(".")) for name in names
    ):
        raise UserError(f"{where}: expected a list of packages, as in [mylab], got {given!r}")
    return [name.strip() for name in names]
