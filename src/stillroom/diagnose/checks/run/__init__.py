"""Checks of what a run left: how it learned, what it took from its teacher, what it answers."""
