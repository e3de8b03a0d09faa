"""The layers of a network when its training starts."""

from pytorch_lightning.callbacks import ModelSummary
from pytorch_lightning.utilities.model_summary import get_human_readable_count

from lightning_modules.report.tables import open_console, terminal_table


class CompactModelSummary(ModelSummary):
    """Prints the layers and their numbers of parameters; what is the same for all of them (mode, no FLOPs) is left out."""

    @staticmethod
    def summarize(  # type: ignore[override] # Lightning calls it by these names
        summary_data: list[tuple[str, list[str]]],
        total_parameters: int,
        trainable_parameters: int,
        model_size: float,
        total_training_modes: dict[str, int],
        **others: object,
    ) -> None:
        optional = ("Mode", "FLOPs", "Params per Device")
        shown = [(name, cells) for name, cells in summary_data if name not in optional or len(set(cells)) > 1][1:]
        left = [position for position, (name, _) in enumerate(shown) if name in ("Name", "Type", "Mode")]
        rows = zip(*(cells for _, cells in shown), strict=True)
        console = open_console()
        console.print(terminal_table([name.lower() for name, _ in shown], [[*map(str, row)] for row in rows], left))
        frozen = total_parameters - trainable_parameters
        count = f"{get_human_readable_count(total_parameters).strip()} parameters"
        console.print(f"{count}, {get_human_readable_count(frozen).strip()} of them frozen, {model_size:.3g} MB")
