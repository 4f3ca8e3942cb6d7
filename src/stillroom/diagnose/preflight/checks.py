"""All checks that are made before a run, causes before what follows from them."""

from __future__ import annotations

from stillroom.diagnose.preflight.balance import LossBalance
from stillroom.diagnose.preflight.check import Check
from stillroom.diagnose.preflight.features import PenultimateWidth, Taps
from stillroom.diagnose.preflight.inputs import TeacherChannelOrder, TeacherNormalisation, TeacherResize
from stillroom.diagnose.preflight.kept import StaleCache
from stillroom.diagnose.preflight.labels import DisputedLabels
from stillroom.diagnose.preflight.model_state import ClassOrder, TeacherBatchNorm, TeacherLogits
from stillroom.diagnose.preflight.schedule import Budget, LearningRate, Regularisation
from stillroom.diagnose.preflight.smoothing import TeacherLabelSmoothing
from stillroom.diagnose.preflight.softness import TeacherConfidence, Temperature
from stillroom.diagnose.preflight.views import Augmentation
from stillroom.diagnose.preflight.worth import CapacityGap, TeacherAccuracy

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
