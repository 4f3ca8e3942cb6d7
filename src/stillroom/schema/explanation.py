"""``explain.json``: concepts of students over their training, hypotheses about them, and how alike networks are."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from stillroom.errors import BadInput
from stillroom.schema.base import Count, Couple, Items, JsonFile, JsonObject, NonNegative, OptionalItems, Share

EXPLANATION, EXPLANATION_MAPS, EXPLANATION_WORDS = "explain.json", "explain-maps.npz", "explain-words.json"
HypothesisVerdict = Literal["supported", "refuted", "undecided"]
MeasureName = Literal["n_fg", "n_bg", "ratio", "d_mean", "d_std", "rho"]
# The place of a run in the file, or its teacher.
NetworkRef = Count | Literal["teacher"]


class EntropySearch(JsonObject):
    """How entropies were found: g cells a side, λ, the mean entropy to stop at, seed of the noise, most passes."""

    grid: Annotated[int, Field(ge=1)]
    weight: float
    stop: float | None = None
    seed: int
    passes: int | None = None


class ConceptCounts(JsonObject):
    """Means over images at one checkpoint; quartiles are over images, ``background`` is the mean entropy there."""

    epoch: NonNegative | None = None
    n_fg: NonNegative
    n_bg: NonNegative
    n_fg_quartiles: Couple[float] | None = None
    n_bg_quartiles: Couple[float] | None = None
    ratio: Share | None = None
    without_concepts: Count | None = None
    background: float | None = None


class LearningSpeed(JsonObject):
    """How far a layer's weights had moved at each checkpoint, and when images had most concepts (D)."""

    layer: str
    weight_distance: OptionalItems[float] = ()
    d_mean: float | None = None
    d_std: float | None = None


class ConceptStability(JsonObject):
    """ρ: the share of concepts ever found on the foreground that is there at the end; images left out of it."""

    rho: Share | None = None
    excluded: Count = 0


class ExplainedNetwork(JsonObject):
    """One run's student; ``entropy_error`` is the rms standard error of its entropies at each checkpoint."""

    run: str
    name: str | None = None
    role: Literal["explained", "baseline"]
    seed: int
    tap: str
    accuracy: Share | None = None
    checkpoints: Annotated[Items[ConceptCounts], Field(min_length=1)]
    speed: LearningSpeed | None = None
    stability: ConceptStability
    entropy_error: OptionalItems[float | None] = ()


class HypothesisMeasure(JsonObject):
    """A measure of both ways of training, and their difference with its 95% interval; None: not measured."""

    measure: MeasureName
    expected: Literal["higher", "lower"]
    distilled: float | None = None
    labels: float | None = None
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    verdict: HypothesisVerdict | None = None


class HypothesisTest(JsonObject):
    """One of the three hypotheses; its verdict is None where nothing of it was measured."""

    hypothesis: Annotated[int, Field(ge=1, le=3)]
    claim: str = ""
    verdict: HypothesisVerdict | None = None
    measures: Items[HypothesisMeasure]


class SensitivityRow(JsonObject):
    """The hypotheses again with one choice made differently: a threshold, a stop, a grid, a selection of images."""

    what: str
    value: int | float | str
    images: Count
    hypotheses: Items[HypothesisTest]


# The fewest images to explain, and the fewest that the selection of the paper's code keeps where there is a verdict.
FEWEST_IMAGES = 4
# The fewest pairs of networks, a seed each, that give a verdict.
FEWEST_PAIRS = 3


class ExplainedImages(JsonObject):
    """The test images: rows in the split, those left out, how the foreground mask was made, share of its cells.

    ``published``: how many the selection of the paper's code keeps, None without a comparison.
    """

    rows: Items[Count]
    excluded: Items[Count]
    mask: str
    without_foreground: Count
    foreground_cells: Share
    published: Count | None = None


class TeacherConcepts(ConceptCounts):
    """The same of the teacher, which has no epochs."""

    name: str


class NetworkAgreement(JsonObject):
    """On which share of ``count`` test images two networks predict the same class, and both the right one."""

    one: Count
    other: NetworkRef
    agree: Share
    both_right: Share | None = None
    count: Count


class CkaTable(JsonObject):
    """Linear CKA of each tap of one network (rows) with each of another's (columns)."""

    one: Count
    other: NetworkRef
    one_taps: Items[str]
    other_taps: Items[str]
    values: Items[Items[float | None]]
    images: Count

    @model_validator(mode="after")
    def _one_value_for_each_pair(self) -> CkaTable:
        if not self.values or [len(row) for row in self.values] != [len(self.other_taps)] * len(self.one_taps):
            raise BadInput("values", self.values, "a number for each tap of one with each of the other's")
        return self


class AttributionMethod(JsonObject):
    """How attributions were computed."""

    method: str
    library: str | None = None


class Explanation(JsonFile):
    """A whole ``explain.json``."""

    recipe_hash: str | None = None
    search: EntropySearch
    threshold: float
    resamples: Count
    runs: Items[ExplainedNetwork]
    hypotheses: Items[HypothesisTest]
    sensitivity: Items[SensitivityRow]
    images: ExplainedImages
    teacher: TeacherConcepts | None = None
    agreement: OptionalItems[NetworkAgreement] = ()
    cka: OptionalItems[CkaTable] = ()
    attributions: AttributionMethod | None = None

    @property
    def explained(self) -> tuple[int, ...]:
        """The places of the runs that are explained."""
        return tuple(place for place, run in enumerate(self.runs) if run.role == "explained")

    @property
    def baselines(self) -> tuple[int, ...]:
        """The places of the same students trained on labels, in the same order; none without a comparison."""
        return tuple(place for place, run in enumerate(self.runs) if run.role == "baseline")

    @property
    def epochs(self) -> tuple[float, ...]:
        """Of the checkpoints, the same for all runs."""
        return tuple(one.epoch or 0.0 for one in self.runs[0].checkpoints)

    @model_validator(mode="after")
    def _runs_fit_together(self) -> Explanation:
        if not self.explained:
            raise BadInput("runs", len(self.runs), "at least one run that is explained")
        if len(self.baselines) not in (0, len(self.explained)):
            raise BadInput("runs", len(self.runs), "one baseline for each run that is explained, or none")
        for run in self.runs:
            if tuple(one.epoch or 0.0 for one in run.checkpoints) != self.epochs:
                raise BadInput("runs", run.run, "the same checkpoints of each run")
        pairs = [(each.one, each.other) for each in self.agreement] + [(each.one, each.other) for each in self.cka]
        for pair in pairs:
            for place in pair:
                if place != "teacher" and place >= len(self.runs):
                    raise BadInput("agreement and cka", place, f"the place of a run, 0 to {len(self.runs) - 1}")
        return self


class MeanOverTexts(JsonObject):
    """A mean over texts with its 95% interval, which is over the draw of texts alone."""

    mean: float
    low: float
    high: float
    texts: Count


class WordCheckpoint(JsonObject):
    """Of a student at one checkpoint: how it ranks the words of a text as its teacher does, and as it does at the end.

    Spearman's correlations over the words of each text.
    """

    epoch: NonNegative
    with_teacher: MeanOverTexts | None = None
    with_end: MeanOverTexts | None = None


class Rationales(JsonObject):
    """The words that matter, by the user's file: its name, b, the share of words that they are, texts without any.

    ``published``: in how many texts all networks keep these more than the others, as the selection of the paper's code
    asks; None without a comparison.
    """

    file: str
    threshold: float
    words: Share
    without: Count
    published: Count | None = None


class WordNetwork(JsonObject):
    """One run's student; concepts, one for each checkpoint, speed and stability where the words that matter are known.

    Concepts are as of images, with words for cells and the words that matter for the foreground.
    """

    run: str
    name: str
    role: Literal["explained", "baseline"]
    seed: int
    tap: str
    accuracy: Share
    checkpoints: Items[WordCheckpoint]
    concepts: OptionalItems[ConceptCounts] = ()
    speed: LearningSpeed | None = None
    stability: ConceptStability | None = None


class TextWords(JsonObject):
    """What is kept of each word of a text, in nats more than of its mean word.

    ``kept`` is by network, checkpoint, word; ``rationale``: which words matter, where that is known.
    """

    row: Count
    label: str
    words: Items[str]
    rationale: OptionalItems[bool] = ()
    teacher: OptionalItems[float] = ()
    kept: Items[Items[Items[float]]]


class WordExplanation(JsonFile):
    """A whole ``explain-words.json``.

    ``gain`` is how much more the students rank words as the teacher does than the same students from labels.
    """

    teacher: str | None = None
    networks: Items[WordNetwork]
    gain: MeanOverTexts | None = None
    rationales: Rationales | None = None
    teacher_concepts: ConceptCounts | None = None
    hypotheses: OptionalItems[HypothesisTest] = ()
    texts: Items[TextWords]
