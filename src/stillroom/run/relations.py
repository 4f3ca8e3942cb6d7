"""Class relations in the student's last layer, compared with superclasses, truth and teacher."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from stillroom.class_relations import (
    class_cosines,
    class_order,
    is_constant,
    relation_agreement,
    relation_score,
    shows_superclasses,
)
from stillroom.data.images import ImageSet
from stillroom.errors import RunFailed
from stillroom.files import write_text
from stillroom.models.prepared import PreparedModel
from stillroom.models.tail import find_head
from stillroom.schema.base import json_line
from stillroom.schema.run import RELATIONS, RelationAgreement, RelationMaps, RelationScores, RelationsRecord

# More classes than this have no figures, and more than this no maps: they would be a file of millions of numbers.
MOST_CLASSES, MOST_MAPPED = 1000, 200
_EXAMPLES = 2
_DECIMALS = 6


@dataclass(frozen=True, eq=False)
class ClassRelations:
    """The relations of classes in a student's last layer: c_ij, the cosine of the weights of each two."""

    head: str  # path of the student's last layer
    columns: Tensor | None  # for each class of the data, a row of its weights; None leaves them
    data: ImageSet  # classes, superclasses and truth
    teacher: Tensor | None  # the teacher's c, float64 [K, K], where it ends in a linear layer
    truth: Tensor | None  # the true relations, float64 [K, K], where the data know them
    groups: tuple[str, ...] | None  # the superclass of each class, where a score by them has a basis
    # For ``score``, ``truth`` and ``teacher``, in words, why there can be no such figure.
    why: dict[str, str] = field(default_factory=dict)
    has_teacher: bool = False  # whether there is a teacher that can be run here

    def line(self, student: nn.Module) -> dict[str, Any]:
        """Figures of a student at the end of an epoch: a line of ``class_relations.jsonl``, besides step and epoch.

        Raises:
            RunFailed: its last layer is not finite.
        """
        return self._figures(self._map(student))

    def summary(self, student: nn.Module) -> dict[str, Any]:
        """For the summary of the trained student: the figures, and for those that are None why.

        Raises:
            RunFailed: its last layer is not finite.
        """
        own = self._map(student)
        return {**self._figures(own), "why": self._reasons(own)}

    def write(self, out: Path, student: nn.Module) -> None:
        """Write ``class_relations.json``: the figures of student, teacher and truth, and the maps themselves.

        Raises:
            RunFailed: the student's last layer is not finite.
        """
        own = self._map(student)
        maps = {"student": own, "teacher": self.teacher, "truth": self.truth}
        groups, mapped = self.data.superclasses, len(own) <= MOST_MAPPED
        known = {"truth": self.truth, "teacher": self.teacher, "student": own}
        telling = [who for who, c in known.items() if c is not None and not is_constant(c)]
        content = RelationsRecord(
            classes=len(own),
            class_names=self.data.class_names,
            superclasses=groups,
            score=RelationScores(**{who: self._score(c) for who, c in maps.items()}),
            agreement=RelationAgreement(
                truth=_agreement(own, self._believed),
                teacher=_agreement(own, self.teacher),
                teacher_truth=_agreement(self.teacher, self._believed),
            ),
            why=self._reasons(own),
            has_teacher=self.has_teacher,
            has_truth=self.truth is not None,
            ordered_by="superclasses" if groups is not None else telling[0] if telling else None,
            order=tuple(class_order(groups, *known.values())) if mapped else None,
            maps=RelationMaps.model_validate({who: _rounded(c) for who, c in maps.items()}) if mapped else None,
        )
        # Not indented: each cosine would be a line of its own.
        write_text(out / RELATIONS, json_line(content), checksum=True)

    @property
    def _believed(self) -> Tensor | None:
        """The truth, where something can be scored by it."""
        return self.truth if "truth" not in self.why else None

    def _map(self, student: nn.Module) -> Tensor:
        try:
            return class_cosines(_weights(student, self.head, self.columns))
        except ValueError:
            expected = "try a lower training.optimizer.lr"
            raise RunFailed(f"the weights of the student's last layer are not all finite; {expected}") from None

    def _score(self, cosines: Tensor | None) -> float | None:
        if cosines is None or self.groups is None:
            return None
        found = relation_score(cosines, self.groups)
        return None if found is None else round(found, _DECIMALS)

    def _figures(self, own: Tensor) -> dict[str, float | None]:
        return {
            "score": self._score(own),
            "truth": _agreement(own, self._believed),
            "teacher": _agreement(own, self.teacher),
        }

    def _reasons(self, own: Tensor) -> dict[str, str]:
        """Why figures are None, for each that is."""
        alike = "the student's own last layer relates all classes alike"
        return {name: self.why.get(name, alike) for name, value in self._figures(own).items() if value is None}


def relations_of(student: PreparedModel, teacher: PreparedModel | None, data: ImageSet) -> ClassRelations | None:
    """The relations of classes of a run; None where the student does not end in a linear layer, or has too many
    classes.

    Args:
        student: the model that learns.
        teacher: who teaches, where it is a model that can be run here.
        data: the training images, for their classes, superclasses and truth.
    """
    if data.num_classes > MOST_CLASSES or (head := _head(student, data)) is None:
        return None
    why: dict[str, str] = {}
    theirs = None
    if teacher is None:
        why["teacher"] = "there is no teacher whose last layer could be read"
    elif (last := _head(teacher, data)) is None:
        why["teacher"] = "the teacher does not end in a linear layer"
    else:
        theirs = class_cosines(_weights(teacher.model, last, teacher.preprocess().order))
        if is_constant(theirs):
            why["teacher"] = "the teacher's last layer relates all classes alike"
    truth = data.truth.relations if data.truth is not None else None
    groups = data.superclasses
    if groups is None:
        why["score"] = "the data name no superclasses"
    elif len(set(groups)) in (1, len(groups)):
        why["score"] = "the superclasses put all classes together, or no two"
    if truth is None:
        why["truth"] = "the true relations of these data are not known"
    elif is_constant(truth):
        why["truth"] = "in truth no two classes are more alike than any other two"
        why.setdefault("score", "in truth the superclasses are names alone: no two classes are more alike than others")
    elif "score" not in why and groups is not None and not shows_superclasses(truth, groups):
        why["score"] = "in truth classes of one superclass are no more alike than classes of two"
        why["truth"] = "in truth classes are alike by chance alone: the superclasses are not in the true relations"
    basis = groups if "score" not in why else None
    return ClassRelations(head, student.preprocess().order, data, theirs, truth, basis, why, teacher is not None)


def _head(prepared: PreparedModel, data: ImageSet) -> str | None:
    return find_head(prepared.model, prepared.inputs(data.images[:_EXAMPLES]))


def _weights(model: nn.Module, head: str, columns: Tensor | None) -> Tensor:
    """The rows of the last layer, one a class of the data."""
    weight = model.get_submodule(head).weight
    assert isinstance(weight, Tensor)
    weight = weight.detach().cpu()
    return weight if columns is None else weight.index_select(0, columns.cpu())


def _agreement(cosines: Tensor | None, reference: Tensor | None) -> float | None:
    if cosines is None or reference is None:
        return None
    found = relation_agreement(cosines, reference)
    return None if found is None else round(found, _DECIMALS)


def _rounded(cosines: Tensor | None) -> list[list[float]] | None:
    # Adding 0 makes −0 a 0.
    return None if cosines is None else [[round(value, 4) + 0.0 for value in row] for row in cosines.tolist()]
