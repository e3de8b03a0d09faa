"""``touchstone new``: the folder of a new project, which trains and tests as it is."""

import re
import shutil
from pathlib import Path
from typing import Annotated

from lightning_modules.cli.arguments import verb
from lightning_modules.config.errors import UserError
from lightning_modules.config.project import SHIPPED

_NAME = "mylab"  # of the template's package


@verb("FOLDER", ("mylab", "~/projects/vision-lab"))
def main(target: Annotated[str, "a folder that does not exist; its name is that of the package"]) -> dict[str, Path]:
    """Write a project: conf/, a package with a LightningModule and a LightningDataModule, an experiment with a claim, tests
    and a Makefile."""
    folder = Path(target).expanduser().absolute()
    package = re.sub(r"\W+", "_", folder.name.lower(), flags=re.ASCII).strip("_")
    if not package.isidentifier() or package == "lightning_modules":
        raise UserError(f"{target}: a package cannot have this name; choose a folder that begins with a letter")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{target} exists already and is not empty")
    template = SHIPPED / "template"
    if not template.is_dir():
        raise UserError(f"{template} is missing: the installation is incomplete")
    for source in sorted(path for path in template.rglob("*") if path.is_file() and "__pycache__" not in path.parts):
        relative = str(source.relative_to(template)).replace(_NAME, package)
        path = folder / (".gitignore" if relative == "gitignore" else relative)
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, path)
        path.write_text(path.read_text(encoding="utf-8").replace(_NAME, package), encoding="utf-8")
    print(f"{folder}\n\n  cd {target}\n  make train    # touchstone train task=mine data=mine\n  make test")
    return {"folder": folder}
