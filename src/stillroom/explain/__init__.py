"""What changed inside a student: pixel-wise entropy, visual concepts, the three hypotheses of Cheng et al. 2020."""

from stillroom.callables import make_callable
from stillroom.explain.entropy import PixelEntropies, entropy_of_energies, pixel_entropy, pixel_entropy_with_error
from stillroom.explain.grid import above_zero, centre_box, from_boxes, on_grid
from stillroom.explain.metrics import concept_counts, concepts, learning_speed, stability
from stillroom.explain.queries import TapFeatures

__all__ = [
    "PixelEntropies", "TapFeatures", "above_zero", "centre_box", "concept_counts", "concepts", "entropy_of_energies",
    "from_boxes", "learning_speed", "on_grid", "pixel_entropy", "pixel_entropy_with_error", "stability",
]  # fmt: skip

make_callable(__name__)
