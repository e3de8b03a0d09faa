import subprocess
import sys
import textwrap
import traceback

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from lightning_modules.compat import hydra as compat


def test_the_parser_tells_overrides_from_flags():
    found = compat.args_parser().parse_intermixed_args(["--cfg", "job", "a=1", "-m", "b=2"])
    assert found.overrides == ["a=1", "b=2"]
    assert found.cfg == "job" and found.multirun


def test_choices_become_plain_values():
    override = OverridesParser.create().parse_override("key=choice(1,'2',[a,b],{c:0.5},1e-3)")
    assert [compat.convert_value(value) for value in override.value().list] == [
        1,
        "2",
        ["a", "b"],
        {"c": 0.5},
        0.001,
    ]


def test_an_error_of_composing_comes_from_the_defaults_list(tmp_path):
    from hydra import compose, initialize_config_dir

    (tmp_path / "main.yaml").write_text("defaults: [group: missing]")
    with initialize_config_dir(str(tmp_path), version_base="1.3"), pytest.raises(Exception) as error:
        compose("main")
    frames = [frame.f_globals["__name__"] for frame, _ in traceback.walk_tb(error.value.__traceback__)]
    assert any(name.startswith(compat.DEFAULTS_LIST_MODULE) for name in frames)


def test_plugins_of_our_own_are_found_by_name():
    code = """
        import sys
        from hydra.core.plugins import Plugins
        from hydra.plugins.launcher import Launcher
        from hydra.plugins.sweeper import Sweeper
        from hydra.utils import get_class
        from lightning_modules.compat.hydra import register_plugins

        class Mine(Launcher):
            def setup(self, **_): pass
            def launch(self, job_overrides, initial_job_idx): return []

        register_plugins("ours", sys.modules[__name__], [Mine])
        assert get_class("hydra_plugins.ours.Mine") is Mine
        assert Mine in Plugins.instance().discover(Launcher)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True)


def test_errors_are_raised_and_not_printed(tmp_path):
    (tmp_path / "main.py").write_text(
        "import os\nimport hydra\n"
        "@hydra.main(version_base='1.3', config_path=None)\n"
        "def main(cfg):\n    raise ZeroDivisionError\n"
        "os.environ['HYDRA_FULL_ERROR'] = '1'\n"
        "try: main()\n"
        "except ZeroDivisionError: print('raised')\n"
    )
    done = subprocess.run(
        [sys.executable, "main.py", "hydra.run.dir=."], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout == "raised\n"
