"""Measurements that the tables of a training do not hold."""

__all__: list[str] = []
