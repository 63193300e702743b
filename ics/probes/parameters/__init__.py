"""Norms and moments of parameters, their gradients and their updates."""

__all__: list[str] = []
