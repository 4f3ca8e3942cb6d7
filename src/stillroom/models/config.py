"""The options of a model, of each network of the zoo, and of what a model's input goes through. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, SerializerFunctionWrapHandler, Tag, model_serializer, model_validator

from stillroom.config import Config, by_shape

PreprocessName = Literal["imagenet", "half", "unit", "none"]


def _columns(value: Any) -> Any:
    items = value if isinstance(value, list | tuple) else [] if value is None else [value]
    if not all(isinstance(item, int) and not isinstance(item, bool) for item in items) or value in ([], ()):
        raise ValueError("a column, a list of columns, or null for a class that the model lacks")
    return tuple(items) if len(items) > 1 else items[0] if items else None


# The columns of a model's logits that mean a class: one, several, or none.
ClassColumns = Annotated[int | tuple[int, ...] | None, BeforeValidator(_columns)]


class PreprocessConfig(Config):
    """What turns uint8 pixels into one model's input: x/255, resize, channel order, (x − mean)/std."""

    mean: tuple[float, ...] = Field(description="Mean of each channel, in units of pixel/255.")
    std: tuple[float, ...] = Field(
        description="Standard deviation of each channel, in units of pixel/255; below 0, the channel is inverted."
    )
    size: int | None = Field(
        None, ge=1, description="Side the images are resized to (bilinear, antialiased), in pixels; none leaves them."
    )
    channel_order: Literal["rgb", "bgr"] = Field("rgb", description="Order of the channels the model was trained with.")
    class_order: tuple[ClassColumns, ...] | None = Field(
        None,
        description="For each class of the data, the column of this model's logits that means it; none where they "
        "agree. Of a teacher also several columns, whose probabilities are added, or null for a class it lacks.",
    )

    @model_validator(mode="after")
    def _consistent(self) -> PreprocessConfig:
        if len(self.mean) != len(self.std) or not self.mean:
            raise ValueError(f"as many means as standard deviations, not {len(self.mean)} and {len(self.std)}")
        if any(s == 0 for s in self.std):
            raise ValueError("standard deviations other than 0")
        return self


Preprocess = Annotated[
    Annotated[PreprocessName, Tag("tag:name")] | Annotated[PreprocessConfig, Tag("tag:table")], by_shape("name")
]


class ReusedHeadConfig(Config):
    """A teacher's last layer behind a projector, in place of the model's own (`stillroom.models.reused_head`)."""

    teacher_tap: str = Field(min_length=1, description="Tap of the teacher whose features the projector imitates.")
    tap: str = Field(min_length=1, description="Tap of this model that the projector reads: a map, or features.")
    channels: int = Field(ge=1, description="Channels of the teacher's features.")
    grid: tuple[int, int] | None = Field(
        None, description="Height and width of the teacher's map, which a larger one is pooled to; none for features."
    )
    factor: int = Field(2, ge=1, description="The projector's inner width is the teacher's channels divided by it.")


_ABOUT_WEIGHTS = ("weights_key", "weights_prefix", "head")


class ModelConfig(Config):
    """Which model, from which weights, built with which options, fed through which preprocess."""

    # Options that are not written when they are None.
    left_out: ClassVar[tuple[str, ...]] = (*_ABOUT_WEIGHTS, "reused_head")

    name: str = Field(
        min_length=1,
        description="A model of `stillroom list`, timm:NAME or torchvision:NAME (extras; random weights), "
        "transformers:TYPE or transformers:FOLDER with a config.json, or "
        "module:function for your own, called with the keywords it accepts of num_classes, in_channels, image_size "
        "(of texts: vocabulary, length) and the options.",
    )
    weights: str | None = Field(
        None,
        description="File of weights (.safetensors, .pt, .pth, .th), or a folder of shards with their index; a "
        "relative path is looked for in the working folder, then under $STILLROOM_DATA. pretrained: those that timm or "
        "torchvision published, fetched once. None starts from random weights.",
    )
    weights_key: str | None = Field(
        None,
        description="Entry of the file of weights to load, such as state_dict_ema; left out: the only one that fits, "
        "or the moving average next to it.",
    )
    weights_prefix: str | None = Field(
        None,
        description="Load only tensors whose names begin with this, such as student or teacher of a file with both.",
    )
    head: Literal["new"] | None = Field(
        None,
        description="new: the last layer keeps its random weights and `weights` gives all the others, to fine-tune a "
        "pretrained model for other classes.",
    )
    reused_head: ReusedHeadConfig | None = Field(
        None,
        description="Written by a run whose student ends in its teacher's last layer; `weights` are then of the whole.",
    )
    options: dict[str, Any] = Field(
        default_factory=dict, description="Keyword arguments of the model, such as width or depth."
    )
    preprocess: Preprocess | None = Field(
        None,
        description="imagenet, half (.5/.5), unit (x/255), none (pixels as given), or mean and std by numbers; "
        "left out: none for data that is not uint8; else timm's own mean and std for its models, imagenet for other "
        "models of 3 channels, half for the rest.",
    )

    @model_validator(mode="after")
    def _about_weights(self) -> Self:
        for name in _ABOUT_WEIGHTS:
            if self.weights is None and getattr(self, name) is not None:
                raise ValueError(f"weights with {name}, which is about them")
        return self

    def without_weights(self) -> Self:
        """The same model with random weights."""
        return self.model_copy(update={"weights": None, **dict.fromkeys(_ABOUT_WEIGHTS)})

    @model_serializer(mode="wrap")
    def _only_where_set(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # Recipes without them stay what they were, to their bytes and their hash.
        written: dict[str, Any] = handler(self)
        return {key: value for key, value in written.items() if value is not None or key not in self.left_out}


RESNET_DEPTHS = (8, 14, 20, 32, 44, 56, 110)
WIDE_RESNET_DEPTHS = (8, 32)
WRN_SIZES = ((16, 1), (16, 2), (40, 1), (40, 2))
VGG_DEPTHS = (8, 11, 13, 16, 19)


# A width of its own for what the classifier is given.
Penultimate = Annotated[
    int | None,
    Field(
        ge=1,
        le=65536,
        description="Width of the features before the classifier, made by a linear layer and a ReLU after the pooling; "
        "none gives it the pooled channels, 4 times `width`.",
    ),
]


class ResNetOptions(Config):
    """Options of ``resnet8`` … ``resnet110``."""

    width: int = Field(16, ge=1, le=1024, description="Channels of the first stage; the others have 2 and 4 times.")
    penultimate: Penultimate = None
    projection: bool = Field(
        False,
        description="Learned 1×1 shortcuts where the shape changes, as in the CRD benchmark; without, channels of "
        "zeros are added.",
    )


class WideResNetOptions(Config):
    """Options of ``resnet8x4`` and ``resnet32x4``, the pair of the CRD benchmark."""

    width: int = Field(64, ge=1, le=1024, description="Channels of the first stage; the others have 2 and 4 times.")
    penultimate: Penultimate = None
    stem: int = Field(32, ge=1, le=1024, description="Channels of the first convolution.")


class WRNOptions(Config):
    """Options of ``wrn_16_1`` … ``wrn_40_2``."""

    width: int = Field(16, ge=1, le=1024, description="Channels of the first convolution.")
    dropout: float = Field(0.0, ge=0, lt=1, description="Probability of dropping within a block, in training.")


class VGGOptions(Config):
    """Options of ``vgg8`` … ``vgg19``."""

    width: int = Field(64, ge=1, le=1024, description="Channels of the first block; the others have up to 8 times.")


class MLPOptions(Config):
    """Options of ``mlp``."""

    hidden: tuple[Annotated[int, Field(ge=1, le=65536, strict=True)], ...] = Field(
        (256, 256), description="Units of each hidden layer; an empty list is a linear classifier."
    )
    dropout: float = Field(0.0, ge=0, lt=1, description="Probability that a hidden unit is dropped in training.")


class ViTOptions(Config):
    """Options of ``vit_mini``."""

    patch: int | None = Field(
        None,
        ge=1,
        description="Side of a patch, in pixels; none takes the divisor of the image's side nearest 1/8 of it.",
    )
    dim: int = Field(64, ge=1, le=8192, description="Width of a token.")
    depth: int = Field(4, ge=1, le=128, description="Number of blocks.")
    heads: int = Field(4, ge=1, description="Attention heads a block; they divide `dim`.")
    mlp_ratio: float = Field(4.0, gt=0, le=64, description="Hidden units of a block's MLP, as a multiple of `dim`.")
    dropout: float = Field(0.0, ge=0, lt=1, description="Probability of dropping after attention and MLP, in training.")

    @model_validator(mode="after")
    def _heads_divide(self) -> ViTOptions:
        if self.dim % self.heads:
            raise ValueError(f"heads that divide dim ({self.dim}), not {self.heads}")
        return self


class ViTTinyOptions(ViTOptions):
    """Options of ``vit_tiny``: those of ``vit_mini`` with the sizes of the published ViT-Ti."""

    dim: int = Field(192, ge=1, le=8192, description="Width of a token.")
    depth: int = Field(12, ge=1, le=128, description="Number of blocks.")
    heads: int = Field(3, ge=1, description="Attention heads a block; they divide `dim`.")


class TextEncoderOptions(Config):
    """Options of ``bert_mini``."""

    dim: int = Field(128, ge=1, le=8192, description="Width of a token.")
    depth: int = Field(4, ge=1, le=128, description="Number of blocks.")
    heads: int = Field(4, ge=1, description="Attention heads a block; they divide `dim`.")
    mlp_ratio: float = Field(4.0, gt=0, le=64, description="Hidden units of a block's MLP, as a multiple of `dim`.")
    dropout: float = Field(0.1, ge=0, lt=1, description="Probability of dropping, in training.")

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        if self.dim % self.heads:
            raise ValueError(f"heads that divide dim ({self.dim}), not {self.heads}")
        return self


class TextMicroOptions(TextEncoderOptions):
    """Options of ``bert_micro``: those of ``bert_mini`` with smaller sizes."""

    dim: int = Field(24, ge=1, le=8192, description="Width of a token.")
    depth: int = Field(2, ge=1, le=128, description="Number of blocks.")
    heads: int = Field(2, ge=1, description="Attention heads a block; they divide `dim`.")
    dropout: float = Field(0.0, ge=0, lt=1, description="Probability of dropping, in training.")


class BagOptions(Config):
    """Options of ``text_bag``."""

    dim: int = Field(64, ge=1, le=8192, description="Width of a token, and of the hidden layer.")
    dropout: float = Field(0.1, ge=0, lt=1, description="Probability that a hidden unit is dropped in training.")


class TextLSTMOptions(BagOptions):
    """Options of ``text_lstm``."""

    depth: int = Field(1, ge=1, le=16, description="Number of layers.")


@dataclass(frozen=True)
class ZooModel:
    """One entry of the zoo."""

    name: str
    description: str
    options: type[Config]
    of_text: bool = False  # whether it takes token ids, not images


_TIMES = {1: "not widened", 2: "twice as wide"}


def _entries() -> list[ZooModel]:
    resnets = [
        ZooModel(f"resnet{depth}", f"CIFAR ResNet of {depth} layers, 3 stages, parameter-free shortcuts", ResNetOptions)
        for depth in RESNET_DEPTHS
    ]
    wide = [
        ZooModel(
            f"resnet{depth}x4", f"CIFAR ResNet of {depth} layers, 4 times as wide, learned shortcuts", WideResNetOptions
        )
        for depth in WIDE_RESNET_DEPTHS
    ]
    wrns = [
        ZooModel(
            f"wrn_{depth}_{widen}", f"wide ResNet of {depth} layers, {_TIMES[widen]}, pre-activation blocks", WRNOptions
        )
        for depth, widen in WRN_SIZES
    ]
    vggs = [
        ZooModel(f"vgg{depth}", f"CIFAR VGG of {depth} layers with batch norm, one linear layer", VGGOptions)
        for depth in VGG_DEPTHS
    ]
    return [
        *resnets,
        *wide,
        *wrns,
        *vggs,
        ZooModel("mlp", "multilayer perceptron on flattened pixels, 2 hidden layers of 256", MLPOptions),
        ZooModel("vit_mini", "vision transformer, 4 blocks of width 64, mean pooling", ViTOptions),
        ZooModel("vit_tiny", "vision transformer, 12 blocks of width 192 (ViT-Ti), mean pooling", ViTTinyOptions),
        ZooModel("bert_mini", "text: BERT-like encoder, 4 blocks of width 128, mean pooling", TextEncoderOptions, True),
        ZooModel("bert_micro", "text: BERT-like encoder, 2 blocks of width 24, mean pooling", TextMicroOptions, True),
        ZooModel("text_bag", "text: mean of the tokens' embeddings, one hidden layer of 64", BagOptions, True),
        ZooModel("text_lstm", "text: LSTM of width 64 from left to right, mean of its states", TextLSTMOptions, True),
    ]


ZOO: dict[str, ZooModel] = {entry.name: entry for entry in _entries()}


def names() -> list[tuple[str, str]]:
    """Each model of the zoo with a line that describes it, in the order `stillroom list` prints.

    >>> names()[0]
    ('resnet8', 'CIFAR ResNet of 8 layers, 3 stages, parameter-free shortcuts')
    """
    return [(entry.name, entry.description) for entry in ZOO.values()]
