"""The report: what a set of runs shows, on one HTML page that needs nothing else."""

from ics.plots.report.report import write_report

__all__ = ["write_report"]
