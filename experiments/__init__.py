"""One script per experiment: reads flags, calls the packages, writes a run folder."""
