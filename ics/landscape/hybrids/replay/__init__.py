"""Hybrid passes that reuse what the updated net returned before the layer in question."""

__all__: list[str] = []
