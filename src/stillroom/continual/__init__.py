"""Classes that come task by task: what a task is made of, what is remembered of those before, how it is told."""
