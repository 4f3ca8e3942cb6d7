"""From a recipe to a finished run folder: the package that puts all parts together."""
