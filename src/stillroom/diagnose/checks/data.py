"""Checks of the data of a recipe or of a run: test images that are trained on, copies, classes of unequal size."""

from __future__ import annotations

from collections.abc import Callable

from stillroom.diagnose.check import Check, CheckResult, ContextT, Limits, Skip, check
from stillroom.schema.diagnosis import Remedy
from stillroom.schema.run import (
    COPIES_WARNING,
    IMBALANCE_PROBLEM,
    IMBALANCE_WARNING,
    LEAK_PROBLEM,
    LEAK_WARNING,
    DataQuality,
)
from stillroom.tasks import TASKS

LEAK = Limits(
    LEAK_WARNING,
    LEAK_PROBLEM,
    "share of the test images that were trained on, each of which may be right by heart: two runs of one recipe differ "
    "by about .5%, and 5% is more than most methods gain",
)
COPIES = Limits(
    COPIES_WARNING,
    float("inf"),
    "share of the training images that are copies: the epoch is so much shorter than it is",
)
IMBALANCE = Limits(
    IMBALANCE_WARNING,
    IMBALANCE_PROBLEM,
    "training images of the largest class to one of the smallest: from 10 on, small classes lose accuracy",
)


def data_checks(quality_of: Callable[[ContextT], DataQuality]) -> tuple[Check[ContextT], ...]:
    """The checks of the data, for a recipe or for a run.

    Args:
        quality_of: finds what is known of the data; raises :class:`~stillroom.diagnose.check.Skip` where nothing is.
    """

    @check(
        threshold=(
            f"Share of the test $images with the $pixels of a training $image: warning from {LEAK.warning:.1%}, "
            f"problem from {LEAK.problem:.0%}. Of more than 256 MB of files that are read on demand, the files are "
            "compared, their metadata aside. A picture that was cropped or compressed again is not found."
        ),
        source="Barz & Denzler, arXiv 1902.00423: 3.3% of CIFAR-10's and 10% of CIFAR-100's test images are in train.",
        limits=[LEAK],
        problem="Test $images are trained on",
        title="Leak from training to test",
        tasks=TASKS,
    )
    def leak(context: ContextT) -> CheckResult:
        """Whether test images are training images, too."""
        found = quality_of(context)
        evidence = {"shared": found.shared, "test": found.test, "relabelled": found.shared_relabelled}
        if not found.shared:
            how = "" if found.by_pixels else ", by its file"
            return CheckResult("ok", f"None of {found.test:,} test $images is a training $image{how}.", evidence)
        words = (
            "Evaluate on other $images: give a test split without copies, or hold a part of the training $images out "
            "(data.holdout=0.1)."
        )
        return CheckResult(LEAK.at_least(found.leak), f"{_sentence(found.leak_words())}", evidence, Remedy(words))

    @check(
        threshold=(
            f"Share of the training $images that are copies of an earlier one: warning from {COPIES.warning:.0%}."
        ),
        source="Lee et al., arXiv 2107.06499: copies are learned by heart, and take the place of other images.",
        limits=[COPIES],
        problem="Training $images are there twice",
        title="Copies among the training $images",
        tasks=TASKS,
    )
    def duplicates(context: ContextT) -> CheckResult:
        """Whether many training images are copies of others."""
        found = quality_of(context)
        evidence = {"copies": found.copies, "train": found.train, "relabelled": found.copies_relabelled}
        if not found.copies:
            return CheckResult("ok", f"None of {found.train:,} training $images is a copy of another.", evidence)
        words = "Remove the copies; of those with several labels, find out which is right."
        return CheckResult(COPIES.at_least(found.copied), _sentence(found.copies_words()), evidence, Remedy(words))

    @check(
        threshold=(
            f"Training $images of the largest class to one of the smallest: warning from {IMBALANCE.warning:g}, "
            f"problem from {IMBALANCE.problem:g}; problem also where a class has none."
        ),
        source="Buda, Maki & Mazurowski, arXiv 1710.05381.",
        limits=[IMBALANCE],
        problem="Classes of very unequal size",
        title="Sizes of the classes",
        tasks=("single_label", "multi_label"),
    )
    def imbalance(context: ContextT) -> CheckResult:
        """Whether some classes have far fewer training images than others."""
        found = quality_of(context)
        evidence = {
            "largest": found.largest,
            "smallest": found.smallest,
            "ratio": found.imbalance,
            "without_images": found.empty_classes,
        }
        words = (
            "Collect more $images of the small classes, or show them as often (data.sampling=balanced), and judge by "
            "the accuracy of each class, not by top-1."
        )
        if not found.largest:
            raise Skip("No training $image has a label.")
        if found.empty_classes and found.unlabelled:
            summary = (
                f"{found.empty_classes:,} classes have no training $image with a label: the teacher alone has them."
            )
            return CheckResult("warning", summary, evidence, Remedy("Label a few $images of each class."))
        if found.empty_classes:
            summary = f"{found.empty_classes:,} classes have no training $image: the student cannot learn them."
            return CheckResult("problem", summary, evidence, Remedy(words))
        return CheckResult(
            IMBALANCE.at_least(found.imbalance), _sentence(found.imbalance_words()), evidence, Remedy(words)
        )

    return leak, duplicates, imbalance


def _sentence(words: str) -> str:
    return f"{words[0].upper()}{words[1:]}."
