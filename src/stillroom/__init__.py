"""stillroom: distil a PyTorch model into a smaller one, and know why it worked or why it did not."""

__version__ = "0.1.0"
