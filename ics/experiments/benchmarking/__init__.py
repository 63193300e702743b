"""What recording costs: the same training step taken in several ways, in turns within one process."""

__all__: list[str] = []
