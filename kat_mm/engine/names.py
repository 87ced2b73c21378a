"""Names of files that are written."""


class Names:
    """Names that were taken; of the same ones all but the first get a number."""

    def __init__(self):
        self._counts: dict[str, int] = {}

    def unique(self, name: str) -> str:
        """The name, or with a number where it is taken."""
        number = self._counts[name] = self._counts.get(name, -1) + 1
        return self.unique(f'{name}-{number}') if number else name
