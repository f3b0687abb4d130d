"""What the user can mend, said in one line. Everything else is a bug and may show its traceback."""


class UserError(Exception):
    """Bad input: what is wrong, where, and how to mend it, each finding in a line of its own. Exit code 2."""

    exit_code = 2


class Failed(Exception):
    """The input was good, and the answer is no: a reply with an error status, a gateway that is silent. Exit code 1."""

    exit_code = 1
