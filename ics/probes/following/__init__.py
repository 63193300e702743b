"""The first measured pass, followed call by call: which tensor is which site, and its statistics."""

__all__: list[str] = []
