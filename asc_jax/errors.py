"""The exceptions that mean something to a person: no traceback is shown for them."""


class UserError(Exception):
    """Wrong input or surroundings; the message names it, says what was expected and what to do."""


class Interrupted(Exception):
    """A run was stopped from outside and has saved its state."""

    def __init__(self, message: str, signal_number: int):
        super().__init__(message)
        self.signal_number = signal_number
