"""Checks of a study folder."""
