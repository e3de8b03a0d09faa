"""``touchstone rerun``: a recorded run again, compared metric by metric."""

from typing import Annotated

from lightning_modules.cli.arguments import verb


@verb("RUN [here=true]", ("3e782338", "digits-convnet here=true"))
def main(
    target: Annotated[str, "id, its first 6 or more characters, or name of a run"],
    here: Annotated[bool, "use the current code instead of the recorded one, and report what changed"] = False,
) -> dict[str, str]:
    """Run the recorded config on the recorded code, and compare metric by metric."""
    from lightning_modules.tracking.rerun import rerun

    return {"run_id": rerun(target, here)}
