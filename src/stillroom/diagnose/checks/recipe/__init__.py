"""Checks of a recipe, made before it is trained."""
