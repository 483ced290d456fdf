"""The page of a run or of a sweep: `python -m experiments.report`."""
