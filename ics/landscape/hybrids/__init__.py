"""G' of every layer: which layers move in which pass, and the choice of the fastest way."""

__all__: list[str] = []
