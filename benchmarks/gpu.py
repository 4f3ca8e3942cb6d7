"""How fast a distillation step is on a GPU: ``speed.py`` with a GPU's settings, in one run of at most eight minutes.

    python benchmarks/gpu.py                                     # docs/results/gpu.md and gpu.json
    python benchmarks/gpu.py --minutes 4 --batch 256
    python benchmarks/gpu.py --device cpu --rounds 1 --steps 2 --images 600 --out try    # that the script works

ResNet-56 → ResNet-8 and ResNet-32x4 → ResNet-8x4, images and views on the device: stillroom live and cached, with and
without ``torch.compile``, against the loop everybody writes, a framework's loop, the student alone, and the bare cached
step with and without CUDA graphs. Further options are those of ``speed.py``; the last of a name counts.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import speed

# Starting the workers and building two caches takes about three minutes of the eight.
DEFAULTS = ("--gpu-methods", "--name=gpu", "--device=cuda", "--batch=128", "--duel=0", "--steps=40", "--minutes=7")


def main(words: Sequence[str]) -> int:
    """Measure with a GPU's settings, and with what the user changes of them."""
    if {"-h", "--help"} & set(words):
        print(__doc__)
        return 0
    return speed.main([*DEFAULTS, *words], given=words, program="gpu.py")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
