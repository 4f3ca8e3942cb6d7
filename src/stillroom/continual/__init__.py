"""Class-incremental learning: tasks, exemplars, the growing head, the sequence of runs, metrics and summary."""
