"""What is wrong with a teacher, a recipe, a run or a study: evidence, a verdict, a remedy."""

from stillroom.callables import make_callable

make_callable(__name__)
