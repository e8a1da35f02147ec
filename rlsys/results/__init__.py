"""The results of a run: evaluation, pictures and reports."""
