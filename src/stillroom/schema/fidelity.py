"""``fidelity.json``: how well each member of the KL family, at each tap, ranks images by their true divergence."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from stillroom.errors import BadInput
from stillroom.schema.base import Correlation, Count, Items, JsonFile, JsonObject, NonNegative, Share, read_json

FIDELITY = "fidelity.json"
# How exactly the gap is weighed: as it is, by the Fisher diagonal, by the whole Fisher matrix, by the divergence.
Weighing = Literal["identity", "diagonal", "full", "exact"]
WEIGHINGS: tuple[Weighing, ...] = ("identity", "diagonal", "full", "exact")


class RankCorrelation(JsonObject):
    """Spearman's correlation and its 95% interval over the draw of images; None where one of the two is constant."""

    value: Correlation | None = None
    low: Correlation | None = None
    high: Correlation | None = None


class MemberPrediction(JsonObject):
    """How well a member predicts a divergence: over images and checkpoints pooled; within a checkpoint, the mean over
    checkpoints, and each; the median ratio of its value to the divergence."""

    pooled: RankCorrelation
    within: RankCorrelation
    by_checkpoint: Items[Correlation | None]
    ratio: float | None = None


class FidelityMember(JsonObject):
    """One way to weigh the gap, the loss that does so, and how it predicts the gap's and the student's divergence."""

    weighing: Weighing
    loss: str
    gap: MemberPrediction
    student: MemberPrediction


class FidelityTap(JsonObject):
    """A pair of taps.

    ``depth`` is the share of the teacher's multiply-adds; ``drawn_classes`` those drawn for the Fisher diagonal (0: all
    of them); ``explained`` the share of the variance of the teacher's features that the student's explain, and
    ``divergence`` the gap's mean divergence, at each checkpoint.
    """

    teacher: str
    student: str
    depth: Share
    kind: str = ""
    shape: Items[int] = ()
    drawn_classes: Count
    explained: Items[float]
    divergence: Items[float]
    members: Items[FidelityMember]

    @model_validator(mode="after")
    def _one_member_of_each_weighing(self) -> FidelityTap:
        if tuple(member.weighing for member in self.members) != WEIGHINGS:
            got = [member.weighing for member in self.members]
            raise BadInput("members", got, f"one of each weighing: {', '.join(WEIGHINGS)}")
        return self


class FidelityCheckpoint(JsonObject):
    """The student at an epoch: its mean divergence from the teacher."""

    epoch: NonNegative
    divergence: float


class Fidelity(JsonFile):
    """A whole ``fidelity.json``: ``teacher`` by its name in the recipe, ``ridge`` and ``fitted_on`` of feature maps."""

    recipe_hash: str | None = None
    teacher: str = "teacher"
    temperature: NonNegative
    images: Annotated[int, Field(ge=1)]
    fitted_on: Count
    ridge: float | None = None
    resamples: Count | None = None
    checkpoints: Annotated[Items[FidelityCheckpoint], Field(min_length=1)]
    taps: Annotated[Items[FidelityTap], Field(min_length=1)]

    @property
    def epochs(self) -> tuple[float, ...]:
        """Of the checkpoints."""
        return tuple(checkpoint.epoch for checkpoint in self.checkpoints)

    @model_validator(mode="after")
    def _one_number_for_each_checkpoint(self) -> Fidelity:
        count = len(self.checkpoints)
        for place, tap in enumerate(self.taps):
            lists = {"divergence": tap.divergence, **({"explained": tap.explained} if tap.explained else {})}
            for number, member in enumerate(tap.members):
                for name, prediction in (("gap", member.gap), ("student", member.student)):
                    lists[f"members.{number}.{name}.by_checkpoint"] = prediction.by_checkpoint  # type: ignore[assignment]
            for name, values in lists.items():
                if len(values) != count:
                    expected = f"one for each of the {count} checkpoints"
                    raise BadInput(f"taps.{place}.{name}", f"{len(values)} numbers", expected)
        return self


def read_fidelity(path: Path, recipe_hash: str | None) -> Fidelity | None:
    """Read ``fidelity.json`` of a run.

    Args:
        path: the file.
        recipe_hash: of the run, by its summary.

    Returns:
        What it holds; None where there is no such file.

    Raises:
        BadInput: it is damaged, or another run's.
    """
    if not path.is_file():
        return None
    fidelity = read_json(Fidelity, path)
    if fidelity.recipe_hash != (recipe_hash or None):
        expected = (
            "that of summary.json in the same folder: it was made from another run; `stillroom fidelity` makes it again"
        )
        raise BadInput(f"{path}: recipe_hash", fidelity.recipe_hash, expected)
    return fidelity
