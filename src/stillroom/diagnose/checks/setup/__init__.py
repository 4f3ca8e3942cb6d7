"""Checks of a teacher, a student, their data, loss and optimizer, made before a training loop begins."""
