"""One file per quantity of the landscape: from a transition to a block of rows."""

__all__: list[str] = []
