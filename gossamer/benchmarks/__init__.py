"""The benchmarks of the field, one file each: the official files, scores and submission formats."""
