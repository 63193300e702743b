"""No test can cut the power, so none waits for the disk; that the disk is waited for has a test of its own."""

from __future__ import annotations

import os

import pytest


@pytest.fixture(scope="session", autouse=True)
def quick_disk():
    real = os.fsync
    os.fsync = lambda descriptor: None
    yield
    os.fsync = real
