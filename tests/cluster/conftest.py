"""What the tests of clusters share with those of survival."""

from survival.conftest import measured, pytest_terminal_summary

__all__ = ["measured", "pytest_terminal_summary"]
