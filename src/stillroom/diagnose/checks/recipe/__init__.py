"""Checks made before anything is trained: what the recipe names is looked at, and asked about a few images.

``case.py`` is what the checks look at, worked out once and only when asked for; ``mending.py`` tells apart what could
be wrong with how a teacher is asked; each other file holds the checks of one topic; ``checks.py`` lists them.
"""
