"""What recording costs: the same training step taken in several ways, which alternate within one process."""

__all__: list[str] = []
