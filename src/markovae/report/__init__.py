"""What a run came to: report.html, which needs nothing but itself, and report.json with the same figures."""

from markovae.report.subject import own_precision
from markovae.report.writing import current_report, write_report

__all__ = ["current_report", "own_precision", "write_report"]
