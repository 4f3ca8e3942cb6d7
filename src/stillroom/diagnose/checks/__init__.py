"""What is wrong with a recipe, before it is run, and with a run, after it."""
