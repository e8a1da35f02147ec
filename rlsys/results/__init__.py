"""What came of a run: evaluation, pictures and reports."""
