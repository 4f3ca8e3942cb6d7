"""From a recipe to a finished run folder: the one place that puts the parts together."""
