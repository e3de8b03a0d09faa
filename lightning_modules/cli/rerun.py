"""``touchstone rerun``: a recorded run again, compared metric by metric."""

from dataclasses import dataclass
from typing import Annotated

from lightning_modules.cli.arguments import Verb


@dataclass
class Arguments:
    """Run the recorded config on the recorded code, and compare metric by metric."""

    target: Annotated[str, "id, its first 6 or more characters, or name of a run"]
    here: Annotated[bool, "use the current code instead of the recorded one, and report what changed"] = False


def _rerun(arguments: Arguments) -> None:
    from lightning_modules.tracking.rerun import rerun

    rerun(arguments.target, here=arguments.here)


main = Verb("rerun", "RUN [here=true]", Arguments, _rerun, ("3e782338", "digits-convnet here=true"))
