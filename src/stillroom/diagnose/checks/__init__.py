"""The checks of a recipe, of a run and of a study, by what they measure."""
