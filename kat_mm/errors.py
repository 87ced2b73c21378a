class UserError(ValueError):
    """A mistake in a config, a command line or the data, with a message that says how to mend it.

    The command-line tools print its message alone; every other exception keeps its traceback.
    """
