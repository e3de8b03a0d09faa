"""What pyproject.toml cannot say: the wheel has conf/ and template/ inside of the package.

conf/experiment is a symbolic link to experiments/ in a checkout; wheels keep no links, and get the folder in its place.
"""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent


class BuildWithConfigs(build_py):
    """Copies the folders, except into an editable installation, which finds them in the checkout."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            for folder in ("conf", "template"):
                target = Path(self.build_lib) / "lightning_modules" / folder
                shutil.rmtree(target, ignore_errors=True)
                shutil.copytree(ROOT / folder, target, ignore=shutil.ignore_patterns("experiment", "__pycache__"))
            experiments, target = (
                ROOT / "experiments",
                Path(self.build_lib) / "lightning_modules" / "conf" / "experiment",
            )
            shutil.copytree(experiments, target, ignore=shutil.ignore_patterns("*.png"))
            shutil.copytree(ROOT / "template" / "conf" / "experiment", target.parents[1] / "template/conf/experiment")


setup(cmdclass={"build_py": BuildWithConfigs})
