"""Measurements that no training's tables hold."""

__all__: list[str] = []
