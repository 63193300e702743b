"""Later passes, by a plan that the first one gave: one hook for each module that has rows."""

__all__: list[str] = []
