"""Thin adapters to other tools; each imports its tool only when it is used."""

from ics.integrations.tensorboard import to_tensorboard

__all__ = ["to_tensorboard"]
