"""The exceptions every part of kdguard raises on purpose.

Two families only: `UserError` and its kin carry one line for the person at the
keyboard (what was wrong, where, what to do) and an exit code; anything else that
escapes is our bug and shows its traceback.
"""


class UserError(Exception):
    """The input was wrong: a bad file, bad data, a bad option. Exit code 2."""

    exit_code = 2


class MissingDependencyError(UserError):
    """This machine lacks something the command needs: a package, a GPU. Exit code 3."""

    exit_code = 3


class GateFailedError(UserError):
    """The work was done and a fidelity gate failed. Exit code 1."""

    exit_code = 1
