"""All checks that are made before a run, causes before what follows from them."""

from __future__ import annotations

from stillroom.diagnose.checks.recipe.balance import LossBalance
from stillroom.diagnose.checks.recipe.check import Check
from stillroom.diagnose.checks.recipe.features import PenultimateWidth, Taps
from stillroom.diagnose.checks.recipe.inputs import TeacherChannelOrder, TeacherNormalisation, TeacherResize
from stillroom.diagnose.checks.recipe.kept import StaleCache
from stillroom.diagnose.checks.recipe.labels import DisputedLabels
from stillroom.diagnose.checks.recipe.model_state import ClassOrder, TeacherBatchNorm, TeacherLogits
from stillroom.diagnose.checks.recipe.schedule import Budget, LearningRate, Regularisation
from stillroom.diagnose.checks.recipe.smoothing import TeacherLabelSmoothing
from stillroom.diagnose.checks.recipe.softness import TeacherConfidence, Temperature
from stillroom.diagnose.checks.recipe.views import Augmentation
from stillroom.diagnose.checks.recipe.worth import CapacityGap, TeacherAccuracy

CHECKS: tuple[Check, ...] = (
    TeacherLogits(),
    ClassOrder(),
    TeacherNormalisation(),
    TeacherChannelOrder(),
    TeacherResize(),
    TeacherBatchNorm(),
    TeacherAccuracy(),
    TeacherLabelSmoothing(),
    TeacherConfidence(),
    Temperature(),
    LossBalance(),
    LearningRate(),
    Budget(),
    Regularisation(),
    Augmentation(),
    DisputedLabels(),
    Taps(),
    PenultimateWidth(),
    CapacityGap(),
    StaleCache(),
)
