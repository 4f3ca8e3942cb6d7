"""Checks of a loss function: how to call it, what it is, and the properties that a distillation loss must have."""
