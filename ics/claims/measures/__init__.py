"""Measures that several claims share, by net and seed."""

__all__: list[str] = []
