"""What a user can mend, said in one line."""


class InputError(Exception):
    """The user asked for something that cannot be done: printed as one line, exit status 2.

    Args:
      field: the field, flag or file at fault.
      message: what is wrong with it, and the mend.
    """

    def __init__(self, field: str, message: str):
        super().__init__(f"{field}: {message}")
        self.field = field
