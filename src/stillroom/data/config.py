"""The options of the data and of its augmentation. Nothing here imports torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    Discriminator,
    Field,
    SerializerFunctionWrapHandler,
    Tag,
    ValidationError,
    model_serializer,
    model_validator,
)

from stillroom.config import Config, bad_input
from stillroom.tasks import TASK_INFO, Task

SourceName = Literal["auto", "digits", "synthetic", "shapes", "parquet", "idx", "folders", "csv", "text", "python"]
# Sources whose images are files, those whose images are brought to one size, and what errors say of both.
IMAGE_FILES = ("folders", "csv")
SIZED = (*IMAGE_FILES, "parquet")
ONLY_IMAGE_FILES = "only `folders` and `csv` have it, `parquet` image_size alone"


# Sources that are made by options of their own name.
_MADE = ("synthetic", "shapes")
# Sources that have options of their own name.
_OF_SOURCE = (*_MADE, "text")


Probability = Annotated[float, Field(ge=0, le=1)]
# Smallest and largest; drawn uniformly between them.
Range = tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]]


# A share of the training images, or the name of a split.
Validation = Annotated[
    Annotated[float, Field(gt=0, lt=1), Tag("tag:number")] | Annotated[str, Field(min_length=1), Tag("tag:word")],
    Discriminator(lambda value: "tag:word" if isinstance(value, str) else "tag:number"),
]


class _Ranges(Config):
    """Options of which some are a smallest and a largest number."""

    @model_validator(mode="after")
    def _ranges_are_ordered(self) -> _Ranges:
        for name in type(self).model_fields:
            value = getattr(self, name)
            if isinstance(value, tuple) and value[0] > value[1]:
                raise ValueError(f"{name} as the smallest and the largest, not {list(value)}")
        return self


class RandomResizedCropConfig(_Ranges):
    """A random part of each image, resized to the image's size; torchvision's RandomResizedCrop."""

    scale: Range = Field((0.08, 1.0), description="Share of the image's area, smallest and largest (at most 1).")
    ratio: Range = Field((3 / 4, 4 / 3), description="Width divided by height, smallest and largest.")

    @model_validator(mode="after")
    def _within_the_image(self) -> RandomResizedCropConfig:
        if self.scale[1] > 1:
            raise ValueError(f"a scale of at most 1, not {self.scale[1]:g}")
        return self


class ColorJitterConfig(Config):
    """Random changes of colour, in random order; torchvision's ColorJitter."""

    brightness: Probability = Field(0.0, description="Factor uniform in 1 − b … 1 + b.")
    contrast: Probability = Field(0.0, description="Factor uniform in 1 − c … 1 + c.")
    saturation: Probability = Field(0.0, description="Factor uniform in 1 − s … 1 + s.")
    hue: float = Field(0.0, ge=0, le=0.5, description="Shift uniform in −h … h, as a fraction of the colour circle.")


class GaussianBlurConfig(_Ranges):
    """A Gaussian blur of some images, as in SimCLR (arXiv 2002.05709); torchvision's GaussianBlur."""

    p: Probability = Field(0.5, description="Probability.")
    kernel_size: int = Field(
        0, ge=0, description="Side of the kernel in pixels, odd; 0: a tenth of the image's shorter side."
    )
    sigma: Range = Field((0.1, 2.0), description="Standard deviation in pixels, smallest and largest.")

    @model_validator(mode="after")
    def _odd_kernel(self) -> GaussianBlurConfig:
        if self.kernel_size and self.kernel_size % 2 == 0:
            raise ValueError(f"an odd kernel_size, or 0, not {self.kernel_size}")
        return self


class RandAugmentConfig(Config):
    """Random operations of one strength (arXiv 1909.13719); torchvision's RandAugment."""

    num_ops: int = Field(2, ge=1, le=8, description="Operations on each image.")
    magnitude: int = Field(9, ge=0, le=30, description="Their strength, of 31 steps.")


class RandomErasingConfig(_Ranges):
    """A random rectangle of some images set to one value (arXiv 1708.04896); torchvision's RandomErasing."""

    p: Probability = Field(0.5, description="Probability.")
    scale: Range = Field((0.02, 0.33), description="Share of the image's area, smallest and largest (below 1).")
    ratio: Range = Field((0.3, 3.3), description="Height divided by width, smallest and largest.")
    value: int = Field(0, ge=0, le=255, description="The value that its pixels get.")


class AugmentationConfig(Config):
    """What is done to training images; a pure function of (seed, view, sample index).

    In the order of the fields, but for ``cutout``, which comes before ``random_erasing``.
    """

    seed: int = Field(0, ge=0, description="Seed of the augmentation alone; constant over a study.")
    pad_crop: int = Field(0, ge=0, description="Padding on each side before a random crop back to size, in pixels.")
    pad_mode: Literal["reflect"] | None = Field(
        None,
        description="What the padding of pad_crop shows. Left out: zeros, as torchvision's RandomCrop: black in "
        "pixels. reflect: the image, mirrored at its edges.",
    )
    flip: Literal[False, True, "alternate"] = Field(
        False,
        description="Mirror each image left to right with probability 1/2; alternate mirrors it in every second view, "
        "half of the images beginning mirrored, and needs an even number of views.",
    )
    cutout: int = Field(0, ge=0, description="Side of a square set to zero at a random place, in pixels; 0 is none.")
    random_resized_crop: RandomResizedCropConfig | None = Field(
        None, description="A random part resized to the whole, before the flip; in place of pad_crop."
    )
    rotation: float = Field(0.0, ge=0, le=180, description="Turned by up to so many degrees, bilinear, black corners.")
    trivial_augment: bool = Field(
        False, description="One random operation of random strength (TrivialAugment Wide, arXiv 2103.10158)."
    )
    randaugment: RandAugmentConfig | None = Field(None, description="Random operations of one strength.")
    color_jitter: ColorJitterConfig | None = Field(None, description="Random changes of colour.")
    grayscale: Probability = Field(0.0, description="Probability that an RGB image loses its colour.")
    blur: GaussianBlurConfig | None = Field(None, description="A Gaussian blur of some images.")
    random_erasing: RandomErasingConfig | None = Field(None, description="A random rectangle set to one value.")
    mixup: float = Field(
        0.0,
        ge=0,
        description="Each image mixed with another training image, its partner, by λ ∼ Beta(α, α); this is α, 0 is "
        "none. A view is then of a pair; its label is λ of one and 1 − λ of the other (arXiv 1710.09412).",
    )
    cutmix: float = Field(
        0.0,
        ge=0,
        description="A rectangle of a share 1 − λ of each image taken from its partner, λ ∼ Beta(α, α); this is α, 0 "
        "is none (arXiv 1905.04899). With mixup, too, each image gets one of the two, with probability 1/2.",
    )
    token_dropout: float = Field(
        0, ge=0, lt=1, description="Probability that a token of a text is replaced by [MASK], for each by itself."
    )
    span_mask: float = Field(
        0,
        ge=0,
        lt=1,
        description="Share of a text's tokens that are replaced by [MASK], as one span at a random place.",
    )
    of_dataset: bool = Field(
        False,
        description="Written by a run on a dataset with random transforms of its own: they are seeded by (seed, view, "
        "index), which makes views of them.",
    )
    views: int = Field(
        4,
        ge=0,
        description="Number of different views of each image, epoch e using view e mod views; "
        "0 gives a fresh view every epoch.",
    )

    @property
    def parts(self) -> tuple[str, ...]:
        """The options that are set and change images.

        >>> AugmentationConfig(flip=True, mixup=0.2).parts
        ('flip', 'mixup')
        """
        how = ("seed", "pad_mode", "views")
        return tuple(name for name in type(self).model_fields if name not in how and getattr(self, name))

    @property
    def changes(self) -> bool:
        """Whether anything is done to training images."""
        return bool(self.parts)

    @property
    def mixes(self) -> bool:
        """Whether an image of a view is made of two."""
        return bool(self.mixup or self.cutmix)

    @property
    def of_text(self) -> list[str]:
        """The options set that only texts can follow."""
        return [name for name in ("token_dropout", "span_mask") if getattr(self, name)]

    @model_serializer(mode="wrap")
    def _leave_out_unset(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # Recipes and caches without these keep their bytes and their hashes.
        written: dict[str, Any] = handler(self)
        kept = ("seed", "pad_crop", "flip", "cutout", "views")
        return {name: value for name, value in written.items() if name in kept or getattr(self, name)}

    @model_validator(mode="after")
    def _parts_fit(self) -> AugmentationConfig:
        for name, other in (("random_resized_crop", "pad_crop"), ("trivial_augment", "randaugment")):
            if getattr(self, name) and getattr(self, other):
                raise ValueError(f"either {name} or {other}")
        if self.pad_mode and not self.pad_crop:
            raise ValueError("pad_crop of 1 or more with pad_mode")
        return self

    @property
    def different_views(self) -> int:
        """How many views of an image differ: one where nothing is done to it; 0 where each epoch has its own."""
        return self.views if self.changes else 1

    @model_validator(mode="after")
    def _views_alternate(self) -> AugmentationConfig:
        # The last view and the first, which follows it, would show an image the same way round; one view, always.
        if self.flip == "alternate" and self.views % 2:
            raise ValueError(f"an even number of views, or 0, with flip: alternate, not {self.views}")
        return self


class SyntheticConfig(Config):
    """The task of `source: synthetic`: vectors in place of images, and classes whose relations are known.

    x ∼ N(0, I_d); l_k = w_k·x + Σ_{m≤M} sin(α_m w_k·x + β_m); the label is argmax_k (l_k + noise). The class vectors
    are w_k = s·u_{c(k)} + √(1−s²)·v_k, u of the superclass, v of the class alone, all orthogonal and of length 1.
    """

    dimension: int = Field(500, ge=2, description="Numbers in a sample (d); more than there are superclasses.")
    classes: int = Field(50, ge=2, le=10_000, description="Number of classes (K).")
    superclasses: int = Field(
        10, ge=1, description="Number of superclasses (C), at most K; the classes are shared out evenly, in order."
    )
    similarity: float = Field(
        0.7, ge=0, le=1, description="How alike the classes of a superclass are (s): the cosine of their vectors is s²."
    )
    waves: int = Field(4, ge=0, le=1000, description="Sine waves in a class's score (M); with 0 it is linear.")
    noise: float = Field(
        0.1,
        ge=0,
        description="Standard deviation of the noise on the score of each class of each sample, in the score's own "
        "unit: without waves a score has a standard deviation of 1.",
    )
    train: int = Field(20_000, ge=2, description="Number of samples in the train split.")
    test: int = Field(5_000, ge=2, description="Number of samples in the test split.")
    seed: int = Field(0, ge=0, description="Seed of the task and of its samples alone; constant over a study.")

    @model_validator(mode="after")
    def _there_is_room(self) -> SyntheticConfig:
        if self.superclasses > self.classes:
            raise ValueError(f"at most as many superclasses as classes, {self.classes}, not {self.superclasses}")
        if self.superclasses >= self.dimension:
            raise ValueError(
                f"a dimension above the number of superclasses, {self.superclasses}, not {self.dimension}: "
                "the classes differ in what is left"
            )
        return self


class ShapesConfig(Config):
    """The pictures of `source: shapes`: a shape each, which is the class, upon a background that may give it away."""

    image_size: int = Field(32, ge=16, le=512, description="Side of a picture, in pixels.")
    classes: int = Field(4, ge=2, le=6, description="Kinds of shapes, and as many of backgrounds (K).")
    correlation: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Probability that a picture's background is of its class's own kind; else it is of any kind.",
    )
    test_correlation: float | None = Field(
        None, ge=0, le=1, description="The same in the test split; left out, it is that of the train split."
    )
    patch: int = Field(
        0,
        ge=0,
        description="Side in pixels of a square, in the corner furthest from the shape, that the background's kind is "
        "confined to, the rest being grey; 0: all of the background is of its kind.",
    )
    noise: float = Field(12.0, ge=0, le=64, description="Each pixel is moved by up to so many of 255 levels.")
    train: int = Field(10_000, ge=2, description="Number of pictures in the train split.")
    test: int = Field(2_000, ge=2, description="Number of pictures in the test split.")
    seed: int = Field(0, ge=0, description="Seed of the pictures alone; constant over a study.")

    @model_validator(mode="after")
    def _patch_leaves_room(self) -> ShapesConfig:
        if self.patch > self.image_size // 2:
            raise ValueError(f"a patch of at most half of the picture's side, {self.image_size // 2}, not {self.patch}")
        return self


class TextConfig(Config):
    """How the texts of `source: text` become token ids."""

    columns: tuple[str, ...] | None = Field(
        None, min_length=1, max_length=2, description="Column of the text, or the two of a pair; found where left out."
    )
    tokenizer: str | None = Field(
        None,
        description="File of the tokenizers library (tokenizer.json), or its folder; a relative path is looked for in "
        "the working folder, then under $STILLROOM_DATA. Left out: a word-piece is trained on the training split.",
    )
    vocabulary: int = Field(8000, ge=8, le=1_000_000, description="Most tokens that a trained tokenizer knows.")
    lower_case: bool = Field(True, description="Whether a trained tokenizer ignores case and accents.")
    max_length: int = Field(
        128, ge=8, le=8192, description="Most tokens of a text, [CLS] and [SEP] among them; what is longer is cut."
    )


class DataConfig(Config):
    """Where the images come from and how they are handed out."""

    synonyms: ClassVar[dict[str, str]] = {
        "val_split": "holdout",
        "validation_split": "holdout",
        "num_workers": "workers",
        "transforms": "augmentation",
    }

    source: SourceName = Field(
        "auto",
        description="Layout of the data: digits (embedded), synthetic and shapes (made, as those options say), "
        "parquet (Hugging Face layout, or a folder of save_to_disk), idx (.gz), folders (SPLIT/CLASS/image files), csv "
        "(a CSV file of image paths and labels, or a folder with one for each split), text (parquet or CSV files with "
        "a column of text); auto recognises a path, and is digits where none is given.",
    )
    path: str | None = Field(
        None,
        description="Folder or CSV file of the data; a relative one is looked for in the working folder, then under "
        "$STILLROOM_DATA. hf:NAME is a data set of the Hugging Face hub, fetched once (extra hf).",
    )
    synthetic: SyntheticConfig | None = Field(
        None, description="The task of `source: synthetic`, which alone has it; left out, it is the default one."
    )
    shapes: ShapesConfig | None = Field(
        None, description="The pictures of `source: shapes`, which alone has them; left out, they are the default ones."
    )
    text: TextConfig | None = Field(
        None, description="The texts of `source: text`, which alone has them; left out, as by default."
    )
    task: Task | None = Field(
        None,
        description="What is learned of each image: single_label (one class), multi_label (0 or 1 for each class) or "
        "regression (numbers). Left out: single_label; of a Python dataset what its labels are.",
    )
    class_from: Literal["folder", "file_name"] = Field(
        "folder",
        description="Of `folders`, what says the class of an image: its folder, or what its name begins with: cat of "
        "cat_001.jpg. Its files then lie right in the split's folder; train_split is . where there is none.",
    )
    train_split: str = Field("train", description="Name of the split to learn from.")
    test_split: str = Field(
        "test",
        description="Name of the split to evaluate on; `folders` without `test` take their `val` or `validation`.",
    )
    image_column: str | None = Field(None, description="Column of the images; found by itself where left out.")
    label_column: str | None = Field(None, description="Column of the labels; found by itself where left out.")
    label_columns: tuple[str, ...] | None = Field(
        None,
        min_length=1,
        description="Columns of 0 and 1 (multi_label) or of numbers (regression), an output of the model each.",
    )
    train_limit: int | None = Field(
        None,
        ge=2,
        description="Use only this many training images, a fixed random subset that is the same for every seed.",
    )
    test_limit: int | None = Field(None, ge=2, description="Use only this many test images, a fixed random subset.")
    holdout: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="Share of the training images that is not learned from and is evaluated on in place of the test "
        "split, the same ones for every seed: for choosing options without looking at the test images.",
    )
    validation: Validation | None = Field(
        None,
        description="Images that measure the student along the way, so that the test split is looked at once, at the "
        "end: a share of the training images, the same ones for every seed, which are not learned from; or the name of "
        "a split. Left out: the test split is measured along the way, too.",
    )
    labelled: float | None = Field(
        None,
        ge=0,
        lt=1,
        description="Share of the training images whose labels are used, the same ones for every seed and every class "
        "in its share; the losses that read labels leave the others out. 0 uses none; left out: all.",
    )
    unlabelled: str | None = Field(
        None,
        description="Folder of further training images without labels, at any depth; the losses that read no labels "
        "learn from them, too. They are brought to the size of the others.",
    )
    image_size: int | None = Field(
        None,
        ge=1,
        description="Side in pixels that images of `folders`, `csv` and `parquet` are brought to, by resizing the "
        "shorter side and cutting out the middle; needed where they differ in size.",
    )
    in_memory: Literal["auto", True, False] = Field(
        "auto",
        description="Whether image files are decoded once and held in memory, or read again each epoch; "
        "auto holds up to 4·10⁹ bytes of pixels a split.",
    )
    workers: int | None = Field(
        None,
        ge=1,
        description="Threads that read and decode image files; the pixels do not depend on it. "
        "Left out: one for each core.",
    )
    bad_files: Literal["error", "skip"] = Field(
        "error",
        description="What becomes of image files of `folders` and `csv` that cannot be decoded: error names the first; "
        "skip leaves them out, names them at the start and in the summary; their names are part of the fingerprint.",
    )
    batch_size: int = Field(128, ge=1, description="Training images a step.")
    sampling: Literal["shuffled", "balanced"] = Field(
        "shuffled",
        description="Which images an epoch shows: shuffled, each once; balanced, as many, but each class as often as "
        "any other: images of small classes several times. The views, and so the teacher's cache, are the same.",
    )
    augmentation: AugmentationConfig = Field(
        default_factory=AugmentationConfig, description="What is done to training images."
    )

    @model_validator(mode="before")
    @classmethod
    def _task_is_written_out(cls, given: Any) -> Any:
        # So that a resolved recipe holds every number that its data were made of.
        for made in _OF_SOURCE:
            if isinstance(given, dict) and given.get("source") == made and given.get(made) is None:
                return {**given, made: {}}
        return given

    @model_serializer(mode="wrap")
    def _task_only_where_there_is_one(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # Recipes of other data stay what they were before there was any, to their bytes and their hash.
        written: dict[str, Any] = handler(self)
        for made in _OF_SOURCE:
            if getattr(self, made) is None:
                written.pop(made, None)
        for name, default in (("bad_files", "error"), ("sampling", "shuffled"), ("class_from", "folder")):
            if getattr(self, name) == default:
                written.pop(name, None)
        for name in ("validation", "labelled", "unlabelled", "task", "label_columns"):
            if getattr(self, name) is None:
                written.pop(name, None)
        return written

    @model_validator(mode="after")
    def _task_fits_source(self) -> DataConfig:
        if self.task is None or self.task == "single_label":
            if self.label_columns is not None:
                raise ValueError("data.task multi_label or regression with label_columns; label_column names the one")
            return self
        if self.label_column is not None:
            raise ValueError(f"label_columns with task: {self.task}, not label_column")
        if self.source in ("synthetic", "shapes", "idx", "folders"):
            raise ValueError(f"no task: {self.task} with source: {self.source}, whose images have one class each")
        if self.label_columns is None and self.path is not None:
            raise ValueError(f"label_columns with task: {self.task}: the columns of its {self.outputs}")
        return self

    def with_task(self, task: Task | None, columns: Sequence[str] = ()) -> DataConfig:
        """The options with a task of data that can have it, and its columns; BadInput where these do not fit."""
        if task is None and not columns:
            return self
        try:
            content = {**self.model_dump(exclude_unset=True), "task": task}
            return DataConfig.model_validate({**content, **({"label_columns": tuple(columns)} if columns else {})})
        except ValidationError as error:
            raise bad_input(error, DataConfig, "data") from None

    @property
    def outputs(self) -> str:
        """What the outputs of a model of these data are called."""
        return TASK_INFO[self.task or "single_label"].outputs

    @model_validator(mode="after")
    def _path_fits_source(self) -> DataConfig:
        if self.source in ("parquet", "idx", *IMAGE_FILES, "text") and self.path is None:
            raise ValueError(f"a path with source: {self.source}")
        if self.source == "digits" and self.path is not None:
            raise ValueError("no path with source: digits, which is embedded")
        for made in _MADE:
            if self.source == made and self.path is not None:
                raise ValueError(f"no path with source: {made}, which is made, not read")
        for made in _OF_SOURCE:
            if self.source != made and getattr(self, made) is not None:
                raise ValueError(f"no {made} with source: {self.source}; set source: {made}")
        if self.source == "text" and (self.unlabelled is not None or self.image_column is not None):
            raise ValueError("neither unlabelled nor image_column with source: text")
        if self.source == "python" and self.holdout is not None:
            raise ValueError("no holdout with source: python; split the dataset itself and give its parts")
        if self.source == "python" and self.validation is not None:
            raise ValueError("no validation with source: python; give the dataset as validation=")
        if self.validation in (self.train_split, self.test_split):
            raise ValueError(f"validation as another split than train_split and test_split, not {self.validation!r}")
        if self.source == "python" and (self.labelled is not None or self.unlabelled is not None):
            raise ValueError(
                "neither labelled nor unlabelled with source: python; None is the label of an image without"
            )
        if self.source != "auto" and (unfit := self.unfit_for(self.source)):
            raise ValueError(f"no {unfit[0]} with source: {self.source}; {ONLY_IMAGE_FILES}")
        return self

    def unfit_for(self, source: SourceName) -> list[str]:
        """The options set that images of a source cannot follow; ``workers`` and holding in memory change no pixel.

        >>> DataConfig(image_size=64, in_memory=True).unfit_for("idx")
        ['image_size']
        """
        if source in IMAGE_FILES:
            return ["class_from"] if self.class_from != "folder" and source != "folders" else []
        given = {
            "class_from": self.class_from != "folder",
            "image_size": self.image_size is not None and source not in SIZED,
            "in_memory": self.in_memory is False,
            "bad_files": self.bad_files == "skip",
        }
        return [name for name, is_set in given.items() if is_set]
