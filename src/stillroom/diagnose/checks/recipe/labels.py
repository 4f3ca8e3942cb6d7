"""Whether labels and teacher agree on what the training images show."""

from __future__ import annotations

import torch

from stillroom.diagnose.checks.recipe.case import Case
from stillroom.diagnose.checks.recipe.chance import at_least, differ, more_by
from stillroom.diagnose.checks.recipe.check import Check, percent
from stillroom.diagnose.checks.recipe.parts import Skip
from stillroom.diagnose.finding import Finding, Plot, Remedy, Verdict

# From here on the teacher is sure of what it says.
_SURE = 0.95
# Shares of disputed images: of the curated sets that are in use, some hundredths are mislabelled at the most.
_SUSPECT, _SICK = 0.05, 0.15
# How much more often it may have training labels wrong than test labels: at the least, and in the sample. It has, as a
# rule, learned from the one.
_MORE, _FAR_MORE = 0.03, 0.1
# A teacher that has not half of the images right is no judge.
_JUDGE = 0.5
_WORST = 20


class DisputedLabels(Check):
    """How many training images show, in the teacher's opinion, surely something else than their label says."""

    name = "disputed_labels"
    threshold = (
        f"An image is disputed where the teacher gives another class than its label {_SURE} or more. Suspect: at "
        f"least {_SUSPECT:.0%} of all training images are (99.9% bound for the sample), sick {_SICK:.0%}; suspect, "
        "too, where they are disputed more often than test images, beyond chance and by 2 points. Benchmarks hold "
        "some hundredths of wrong labels (Northcutt et al., arXiv 2103.14749); a teacher disputes images that it "
        f"has learned from less often than others. However sure it is: suspect where it has at least {_MORE:.0%} more "
        f"of the training labels wrong than of the test labels (99.9% bound), sick where it is {_FAR_MORE:.0%} in the "
        "sample, too."
    )
    source = "Where the two disagree, labels and teacher pull at the student in opposite directions."

    def examine(self, case: Case) -> Finding:
        """Count disputes among training images, and among test images beside them."""
        if case.accuracy < _JUDGE:
            raise Skip(
                f"The teacher has {percent(case.accuracy)} of the training images right; its disputes say nothing."
            )
        logits, labels = case.teacher_logits.double(), case.sample.labels
        p = logits.softmax(1)
        sure, said = p.max(1)
        disputed = (said != labels) & (sure >= _SURE)
        count, total = int(disputed.sum()), len(labels)
        sure_test, said_test = case.test_logits.double().softmax(1).max(1)
        of_test = int(((said_test != case.test.labels) & (sure_test >= _SURE)).sum())
        order = torch.argsort(p.gather(1, labels[:, None]).squeeze(1))
        worst = [place for place in order.tolist() if disputed[place]][:_WORST]
        evidence = {
            "share": count / total,
            "images": total,
            "share_of_test": of_test / len(case.test),
            "test_images": len(case.test),
            "worst": [
                {
                    "image": int(case.sample.rows[place]),
                    "label": int(labels[place]),
                    "teacher": int(said[place]),
                    "confidence": float(sure[place]),
                }
                for place in worst
            ],
        }
        bound = at_least(count, total)
        wrong, wrong_test = int((said != labels).sum()), int((said_test != case.test.labels).sum())
        extra = more_by((wrong, total), (wrong_test, len(case.test)))
        evidence |= {"wrong": wrong / total, "wrong_of_test": wrong_test / len(case.test), "more_wrong_by": extra}
        more = differ((count, total), (of_test, len(case.test))) and count / total - of_test / len(case.test) >= 0.02
        verdict: Verdict = "ok"
        if bound >= _SICK or (extra >= _MORE and wrong / total - wrong_test / len(case.test) >= _FAR_MORE):
            verdict = "problem"
        elif bound >= _SUSPECT or more or extra >= _MORE:
            verdict = "warning"
        told = f"The teacher disputes {percent(count / total)} of the labels of {total:,} training images"
        told += f" ({percent(of_test / len(case.test))} of test images)."
        if extra >= _MORE and bound < _SUSPECT:
            told = (
                f"The teacher, though seldom sure, has {percent(wrong / total)} of {total:,} training labels wrong and "
                f"{percent(wrong_test / len(case.test))} of test labels: more than it has learned."
            )
        words = (
            "Look at the images that are named, and mend their labels; until then let the teacher count for more "
            "than the labels."
        )
        classes = torch.bincount(labels[disputed], minlength=case.classes)
        most = classes.argsort(descending=True)[:10].tolist()
        names = case.setting.data.train.class_names
        plot = Plot(
            "bars",
            "Disputed images by label",
            tuple(names[c] for c in most),
            tuple(float(classes[c]) for c in most),
            "label",
            "disputed images",
        )
        return self.found(verdict, told, evidence, Remedy(words), [plot] if count else [])
