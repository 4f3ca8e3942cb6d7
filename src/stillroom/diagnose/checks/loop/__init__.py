"""Checks of a training loop of the user's: what its steps did, by its modules, its losses and its answers."""
