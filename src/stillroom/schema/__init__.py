"""Models of every file that stillroom writes: writers construct them, readers check files against them."""
