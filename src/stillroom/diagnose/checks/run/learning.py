"""How the student learned: did it blow up, was it too short, held back, or learned by heart."""

from __future__ import annotations

from typing import Any

from stillroom.diagnose.checks.run import figures
from stillroom.diagnose.checks.run.mending import calmer, longer, low_rate, milder
from stillroom.diagnose.checks.run.reading import Case
from stillroom.diagnose.checks.run.regularisers import Heavy, heavy
from stillroom.diagnose.finding import Finding, Remedy, Verdict
from stillroom.train.optimisation import full_rate_steps

# A rise of the loss over the lowest that it had been, and over where it began. Noise between lines stays below 1.5 in
# runs that learn; a tenth of the first loss keeps the last wiggles near zero from counting.
SPIKE, ABOVE_FIRST, COUNTS = 3.0, 2.0, 0.1
# A rise after which a run that ended before its time ended by it, whatever its last line said.
BROKE = 30.0
# How far from chance an answer must be for the student to have learned something.
NEAR_CHANCE = 0.95
# Shares of the loss that a doubling of the steps takes away. Between seeds of one recipe the share moves by .05.
FALLING, STILL_FALLING = 0.10, 0.05
# Share of its first value that a loss keeps to the end where the rate moves next to nothing.
CREPT = 0.5
# Training loss over that of test images where what was done to the training images made them another task.
DISGUISED = 1.5
# Train loss against the same loss on test images: learned rather than short of steps; and learned by heart.
LEARNED, BY_HEART = 2.0, 4.0
# Steps at the peak rate below which nothing is learned; a recipe's own diagnosis turns at the same.
FEW = 50
# Epochs after which a student that learns has left chance.
BEGUN = 2
# In nats, or in the term's own unit: below it there is nothing to lose.
MATTERS = 0.1
# A rise of the test loss over its lowest.
RISEN = 1.1


def skipped(check: str, why: str) -> Finding:
    """A check that nobody could make."""
    return Finding(check, "skipped", why)


def at_chance(case: Case) -> bool:
    """Whether the last evaluation is no better than one who has seen no image."""
    chance, nats = figures.accuracy_of_chance(case), figures.nll_of_chance(case)
    top1, nll = figures.last(case.test, "top1"), figures.last(case.test, "nll")
    if chance is None or nats is None or top1 is None or nll is None or case.student is None:
        return False
    reach = chance + 100 * figures.margin(chance / 100, case.student.count)
    return top1 <= reach and nll >= NEAR_CHANCE * nats


def rise_of(case: Case) -> tuple[float, bool, bool]:
    """The largest rise of the loss over its lowest before; whether that is a spike; whether the loss came back down."""
    losses = [loss for row in case.train if (loss := case.loss(row)) is not None]
    if len(losses) < 2:
        return 1.0, False, True
    first, low, rise = abs(losses[0]), losses[0], 1.0
    for loss in losses[1:]:
        if loss - low >= COUNTS * first:
            rise = max(rise, loss / max(low, 1e-12))
        low = min(low, loss)
    spiked = rise >= SPIKE or max(losses) >= ABOVE_FIRST * first
    return rise, spiked, losses[-1] <= 1.5 * low


def has_collapsed(case: Case) -> bool:
    """Whether the student learned nothing: then nothing else about it is worth telling."""
    if not at_chance(case):
        return False
    fall = figures.fall_of(case)
    # One that only began to learn is short of steps, not broken.
    began = case.epochs <= BEGUN
    learning = fall is not None and fall.is_sure and fall.share >= STILL_FALLING and not _labels_are_flat(case)
    return rise_of(case)[1] or not (began or learning or rate_was_lost(case))


def rate_was_lost(case: Case) -> bool:
    """Whether the schedule gave the rate away before anything could be learned."""
    return bool(case.planned) and full_rate_steps(case.recipe.training.schedule, case.planned or 0) < FEW


def _labels_are_flat(case: Case) -> bool:
    """Whether the loss on the labels stays at chance while another term's falls."""
    nats = figures.nll_of_chance(case)
    ended = figures.last(case.train, "loss/cross_entropy")
    return ended is not None and nats is not None and ended >= 0.98 * nats


def diverged(case: Case) -> Finding:
    """Whether the loss blew up, or the student never left chance."""
    check = "diverged"
    losses = [loss for row in case.train if (loss := case.loss(row)) is not None]
    if not losses:
        return skipped(check, "The run logged no training loss.")
    rise, spiked, recovered = rise_of(case)
    collapsed, chance = has_collapsed(case), figures.accuracy_of_chance(case)
    evidence: dict[str, Any] = {
        "first_loss": losses[0],
        "lowest_loss": min(losses),
        "highest_loss": max(losses),
        "last_loss": losses[-1],
        "largest_rise": rise,
        "top1": figures.last(case.test, "top1"),
        "chance_top1": chance,
        "nll": figures.last(case.test, "nll"),
        "chance_nll": figures.nll_of_chance(case),
        "peak_lr": max((row.get("lr", 0.0) for row in case.train), default=None),
        "weights": dict(case.weights),
    }
    threshold = (
        f"Sick: no better than chance at the end, or a rise of the loss by {SPIKE:g} times (or to {ABOVE_FIRST:g} "
        "times its first) from which it did not come back, or by "
        f"{BROKE:g} times in a run that ended before its time; suspect: one from which it did. Losses of runs that "
        "learn move by less than half from line to line."
    )
    source = "A loss at log K is that of an answer that does not look at the image."
    plot = figures.loss_plot(case, "Training loss", ABOVE_FIRST * abs(losses[0]))
    verdict: Verdict = "ok"
    remedy = None
    averaged = _averaged(case)
    decayed = next((one for one in heavy(case) if one.key == "training.optimizer.weight_decay"), None)
    held_back = averaged or (decayed if not spiked else None)
    if collapsed and held_back is not None:
        verdict = "warning"
        told = (
            f"The student answers no better than chance ({evidence['top1']:.1f}%), yet its training loss "
            f"{'fell' if averaged else 'never rose'}: {held_back.told} holds it there, see over_regularising."
        )
    elif collapsed:
        verdict = "problem"
        times = f"{rise:,.0f}" if rise < 10_000 else "more than 10,000"
        how = f"the loss rose {times} times over its lowest" if spiked else "the loss never came down"
        told = f"The student answers no better than chance: {evidence['top1']:.1f}% against {chance:.1f}%; {how}."
    elif spiked and (not recovered or (not case.finished and rise >= BROKE)):
        verdict = "problem"
        told = (
            f"The loss blew up: {_number(max(losses))} at its highest, {_number(losses[-1])} at the end, after "
            f"{_number(min(losses))} at its lowest."
        )
    elif spiked:
        verdict = "warning"
        told = f"The loss rose {max(rise, max(losses) / losses[0]):.1f} times and came back: steps were lost by it."
    else:
        told = f"The loss went from {_number(losses[0])} to {_number(losses[-1])} without blowing up."
    if verdict in ("problem", "warning") and not (verdict == "warning" and held_back is not None and collapsed):
        remedy = calmer(case)
    return Finding(check, verdict, told, evidence, threshold, remedy, source, plot)


def _averaged(case: Case) -> Heavy | None:
    """The moving average that the student is, where it remembers too much and the weights themselves learned."""
    losses = [loss for row in case.train if (loss := case.loss(row)) is not None]
    learned = bool(losses) and losses[-1] <= CREPT * losses[0]
    return next((one for one in heavy(case) if one.key == "training.ema"), None) if learned else None


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _stopped(case: Case, check: str) -> Finding | None:
    """Why a check of what a run came to cannot be made; None where it can."""
    if not case.finished:
        return skipped(check, "The run did not end.")
    if has_collapsed(case):
        return skipped(check, "The student learned nothing; see diverged.")
    return None


def has_learned(case: Case, held: figures.Held | None) -> bool:
    """Whether the training images are learned: far better known than test images, and than they were at first.

    After few steps batch norm's running means are not yet those of the weights: test images then look worse than they
    are known.
    """
    if held is None or held.ratio < LEARNED:
        return False
    first = next((float(row[f"loss/{held.name}"]) for row in case.train if f"loss/{held.name}" in row), 0.0)
    return held.train <= first / 2


def under_training(case: Case) -> Finding:
    """Whether the run ended while there was still much to learn."""
    check = "under_training"
    stopped = _stopped(case, check)
    if stopped is not None:
        return stopped
    fall, held, gap = figures.fall_of(case), figures.held(case), case.gap
    if fall is None and case.epochs > 2 and not rate_was_lost(case):
        return skipped(check, "Too few lines of training were logged; set training.log_every lower.")
    moved = sorted(case.moves[-1].get("moves", {}).values()) if case.moves else []
    evidence: dict[str, Any] = {
        "fall_per_doubling": fall.share if fall is not None else None,
        "fall_error": fall.error if fall is not None else None,
        "epochs": case.epochs,
        "peak_lr": max((row.get("lr", 0.0) for row in case.train), default=None),
        "last_lr": figures.last(case.train, "lr"),
        "train_loss": held.train if held is not None else None,
        "test_loss": held.test if held is not None else None,
        "gap": gap.points if gap is not None else None,
        "gap_margin": gap.margin if gap is not None else None,
        "test_trend": _trend(case),
        "median_move": moved[len(moved) // 2] if moved else None,
    }
    threshold = (
        f"Sick: each doubling of the steps took {FALLING:.0%} or more off the training loss at a high learning rate, "
        f"the test loss is within {LEARNED:g} times the training loss, and the student is below its teacher by more "
        f"than twice what chance explains; suspect from {STILL_FALLING:.0%}, or with a smaller gap. Between seeds of "
        f"one recipe the share moves by about 5%. Sick, too: at a rate far below the usual the loss kept {CREPT:.0%} "
        f"of what it was at first; a schedule that comes to fewer than {FEW} steps at its peak rate. Suspect at the "
        "most where over_regularising is the one to say sick."
    )
    source = "A falling learning rate brings the loss down in any run; what it did before that tells what was left."
    plot = figures.loss_plot(case, "Training loss")

    def finding(verdict: Verdict, told: str, remedy: Remedy | None = None) -> Finding:
        return Finding(check, verdict, told, evidence, threshold, remedy, source, plot)

    if gap is not None and not gap.is_real:
        side = "below" if gap.points > 0 else "above"
        told = "level with its teacher" if abs(gap.points) <= gap.margin else "better than its teacher"
        return finding("ok", f"The student is {told} ({gap.told} {side}): more steps have little to win.")
    if held is not None and has_learned(case, held):
        told = f"The training images are learned ({held.name} {held.train:.3g}, on test images {held.test:.3g})"
        return finding("ok", f"{told}: it was not short of steps.")
    if rate_was_lost(case) and case.planned and case.planned >= 2 * FEW:
        full = full_rate_steps(case.recipe.training.schedule, case.planned)
        told = f"Its schedule comes to {full:.3g} steps at the peak rate, of {case.planned:,}{_below(case)}."
        remedy = Remedy("Take a schedule that keeps the rate up.", {"training.schedule": {"name": "one_cycle"}})
        return finding("problem", told, remedy)
    peak = max((row.get("lr", 0.0) for row in case.train), default=0.0)
    began = next((loss for row in case.train if (loss := case.loss(row)) is not None), None)
    ended = next((loss for row in reversed(case.train) if (loss := case.loss(row)) is not None), None)
    if began and ended and ended >= CREPT * began and peak < low_rate(case) and gap is not None and gap.is_large:
        told = f"Crept: at a peak rate of {peak:g} the training loss came from {began:.3g} to no less than {ended:.3g}"
        return finding("problem", f"{told}{_below(case)}.", longer(case))
    share = fall.share if fall is not None else 1.0
    seen = f"{case.epochs:g} epoch{'' if case.epochs == 1 else 's'}"
    told = (
        f"{seen}: each doubling of the steps still took {fall.told if fall is not None else '?'} off the training loss"
    )
    if fall is None or case.epochs <= 1 or (share >= FALLING and fall.is_sure):
        if fall is None or case.epochs <= 1:
            told = f"{seen}: the student saw each image once" if case.epochs <= 1 else f"{seen} and hardly a log line"
        # A gap that is barely there may be another thing's, or chance's.
        large = (gap is None or gap.is_large) and not _is_held_back(case, held)
        return finding(
            "problem" if large else "warning",
            f"{'Too' if large else 'Perhaps too'} short, {told}{_below(case)}.",
            longer(case),
        )
    if share >= STILL_FALLING and fall.is_sure:
        return finding("warning", f"Perhaps too short, {told}{_below(case)}.", longer(case))
    if share >= STILL_FALLING:
        return finding("ok", f"The training loss fell no more than it wavers: {fall.told} a doubling of the steps.")
    return finding("ok", f"The training loss had levelled off: {fall.told} a doubling of the steps.")


def _is_disguised(case: Case, known: figures.Held | None) -> bool:
    """Whether heavy crops or cutout keep the training images from being known, while test images are."""
    shown = any(one.key.startswith("data.augmentation") for one in heavy(case))
    return shown and known is not None and known.train >= DISGUISED * known.test


def _is_held_back(case: Case, known: figures.Held | None) -> bool:
    """Whether a regulariser must be mended before anybody can tell if the run was too short."""
    return any(one.far for one in heavy(case)) or _is_disguised(case, known)


def _below(case: Case) -> str:
    return f", and the student is {case.gap.told} below its teacher" if case.gap is not None else ""


def _trend(case: Case) -> float | None:
    """What top-1 gained over the last third of the evaluations, in points."""
    _, top1 = figures.series(case.test, "top1")
    return top1[-1] - top1[-max(len(top1) // 3, 1) - 1] if len(top1) >= 3 else None


def over_regularising(case: Case) -> Finding:
    """Whether something holds the student back more than it should."""
    check = "over_regularising"
    if not case.finished:
        return skipped(check, "The run did not end.")
    found = heavy(case)
    collapsed = has_collapsed(case)
    spiked = rise_of(case)[1]
    if collapsed and not _averaged(case) and (spiked or not found):
        return skipped(check, "The student learned nothing; see diverged.")
    held, gap, fall = figures.held(case), case.gap, figures.fall_of(case)
    evidence = {
        "heavy": [one.told for one in found],
        "train_loss": held.train if held is not None else None,
        "test_loss": held.test if held is not None else None,
        "teacher_nll": case.teacher.nll if case.teacher is not None else None,
        "gap": gap.points if gap is not None else None,
        "gap_margin": gap.margin if gap is not None else None,
        "fall_per_doubling": fall.share if fall is not None else None,
    }
    threshold = (
        "Heavy: learning rate × weight decay of .001 (usual .00005), smoothing of .3 (usual .1), a moving average "
        "over a fifth of the run, crops beyond a quarter or cutout beyond half of the side. Sick: one of them, a "
        f"student below its teacher by more than chance, and a training loss that is not {LEARNED:g} times below the "
        f"test loss; suspect where the training loss still fell, unless it is {DISGUISED:g} times the test loss under "
        "crops or cutout, or the decay is .01, the smoothing .6. Of a moving average the training loss tells nothing."
    )
    source = "A student that is held back is as bad on its training images as on others; one that overfits is not."
    plot = figures.loss_plot(case, "Training loss")

    def finding(verdict: Verdict, told: str, remedy: Remedy | None = None) -> Finding:
        return Finding(check, verdict, told, evidence, threshold, remedy, source, plot)

    if not found:
        return finding("ok", "No regulariser is far beyond what is usual.")
    what = " and ".join(one.told for one in found)
    usual = " and ".join(f"{one.key} to {'none' if one.usual is None else one.usual}" for one in found)
    remedy = Remedy(f"Bring back to what is usual: {usual}.", {one.key: one.usual for one in found})
    if gap is not None and not gap.is_real:
        return finding("ok", f"Heavy ({what}), but the student is level with its teacher.")
    # What an average remembers is told by the test images: the training loss is that of the weights themselves.
    averaged = any(one.key == "training.ema" for one in found)
    if has_learned(case, held) and not collapsed and not averaged:
        return finding("ok", f"Heavy ({what}), but the training images are learned all the same.")
    if collapsed:
        why = "" if averaged else ": the training loss is that of a guess"
        return finding("problem", f"Held at chance by {what}{why}.", remedy)
    level = ""
    if held is not None:
        level = f": {held.name} is {held.train:.3g} on training images and {held.test:.3g} on test images"
    if held is not None and not averaged:
        level = (
            f": {held.name} is no better on training images ({held.train:.3g}) than on test images ({held.test:.3g})"
        )
    told = f"Held back by {what}{level}{_below(case)}."
    still = fall is not None and fall.is_sure and fall.share >= FALLING
    still = still and not (averaged or any(one.far for one in found) or _is_disguised(case, held))
    return finding("warning" if still or gap is None else "problem", told, remedy)


def over_fitting(case: Case) -> Finding:
    """Whether the student learned its training images by heart."""
    check = "over_fitting"
    stopped = _stopped(case, check)
    if stopped is not None:
        return stopped
    held, gap = figures.held(case), case.gap
    if held is None:
        return skipped(check, "No term of the loss is known on the test images.")
    _, nll = figures.series(case.test, "nll")
    lowest = min(nll) if nll else None
    # A loss that came down at the very end has not risen.
    early = min(nll[: max(2 * len(nll) // 3, 1)]) if len(nll) >= 3 else None
    rise = nll[-1] / early if early else 1.0
    has_risen = early is not None and rise >= RISEN and nll[-1] - early >= MATTERS
    evidence = {
        "term": held.name,
        "train_loss": held.train,
        "test_loss": held.test,
        "ratio": held.ratio,
        "lowest_nll": lowest,
        "last_nll": nll[-1] if nll else None,
        "gap": gap.points if gap is not None else None,
        "gap_margin": gap.margin if gap is not None else None,
    }
    threshold = (
        f"Sick: the loss on training images is {BY_HEART:g} times or more below that on test images and {MATTERS:g} "
        "apart, and the student is below its teacher by more than twice what chance explains; or the test loss rose "
        f"{RISEN:g} times over its lowest. Suspect from {LEARNED:g} times. Training images are seen augmented, so "
        "equal losses would already be good."
    )
    source = "Where both losses are alike, more data or regularisation has nothing to give; where they part, it has."
    mark = BY_HEART * held.train if held.is_cross_entropy else None
    plot = figures.evaluation_plot(case, "nll", "Loss on the test images", "test NLL, nats", mark)

    def finding(verdict: Verdict, told: str, remedy: Remedy | None = None) -> Finding:
        return Finding(check, verdict, told, evidence, threshold, remedy, source, plot)

    told = f"{held.name} {held.train:.3g} on training images, {held.test:.3g} on test images"
    apart = held.test - held.train >= MATTERS and has_learned(case, held)
    if apart and has_risen:
        return finding("problem", f"Learned by heart: the test loss rose {rise:.1f} times, {told}.", milder(case))
    if apart and held.ratio >= BY_HEART and (gap is None or gap.is_large):
        return finding("problem", f"Learned by heart: {told}{_below(case)}.", milder(case))
    if apart:
        return finding("warning", f"Partly learned by heart: {told}.", milder(case))
    return finding("ok", f"Not learned by heart: {told}.")
