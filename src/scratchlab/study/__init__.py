"""Studies: which changes are real. A baseline, what to try, seeds, one metric declared before anything runs."""
