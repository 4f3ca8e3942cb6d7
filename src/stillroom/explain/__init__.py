"""What changed inside a student: pixel-wise entropy, visual concepts, the three hypotheses of Cheng et al. 2020."""

from stillroom.explain.entropy import PixelEntropies, pixel_entropy, pixel_entropy_with_error

__all__ = ["PixelEntropies", "pixel_entropy", "pixel_entropy_with_error"]
