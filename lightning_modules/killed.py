"""The exception that a signal raises."""


class Killed(BaseException):
    """A signal ended the run; not an Exception, so that nothing on the way out takes it for a fault."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(f"ended by signal {signal_number}")
        self.signal_number = signal_number
