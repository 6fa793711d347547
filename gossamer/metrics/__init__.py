"""What answers are scored by: formulas over texts, tags and numbers, which know neither models nor tasks."""
