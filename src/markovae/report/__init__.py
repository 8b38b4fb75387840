"""What a run came to: report.html, which needs nothing but itself, and report.json with the same figures."""
