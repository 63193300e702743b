"""What normalisation layers do to a pass and to its gradient: the terms of Theorem 4.1, and rows of them."""

__all__: list[str] = []
