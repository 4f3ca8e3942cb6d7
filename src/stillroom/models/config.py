"""The options of a model and of what its input goes through. Nothing here imports torch."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, Tag, model_validator

from stillroom.config import Config, by_shape

PreprocessName = Literal["imagenet", "half", "unit", "none"]


class PreprocessConfig(Config):
    """What turns uint8 pixels into one model's input: x/255, resize, channel order, (x − mean)/std."""

    mean: tuple[float, ...] = Field(description="Mean of each channel, in units of pixel/255.")
    std: tuple[float, ...] = Field(description="Standard deviation of each channel, in units of pixel/255.")
    size: int | None = Field(
        None, ge=1, description="Side the images are resized to (bilinear, antialiased), in pixels; none leaves them."
    )
    channel_order: Literal["rgb", "bgr"] = Field("rgb", description="Order of the channels the model was trained with.")
    class_order: tuple[int, ...] | None = Field(
        None,
        description="For each class of the data, the column of this model's "
        "logits that means it; none where they agree.",
    )

    @model_validator(mode="after")
    def _consistent(self) -> PreprocessConfig:
        if len(self.mean) != len(self.std) or not self.mean:
            raise ValueError(f"as many means as standard deviations, not {len(self.mean)} and {len(self.std)}")
        if any(s <= 0 for s in self.std):
            raise ValueError("standard deviations above 0")
        return self


Preprocess = Annotated[
    Annotated[PreprocessName, Tag("tag:name")] | Annotated[PreprocessConfig, Tag("tag:table")], by_shape("name")
]


class ModelConfig(Config):
    """Which model, from which weights, built with which options, fed through which preprocess."""

    name: str = Field(
        min_length=1,
        description="A model of `stillroom list`, timm:NAME or torchvision:NAME (extras; random weights), or "
        "module:function for your own, called with the keywords it accepts of num_classes, in_channels, image_size "
        "and the options.",
    )
    weights: str | None = Field(
        None,
        description="File of weights (.safetensors, .pt, .pth, .th); a relative one is looked for "
        "in the working folder, then under $STILLROOM_DATA. None starts from random weights.",
    )
    options: dict[str, Any] = Field(
        default_factory=dict, description="Keyword arguments of the model, such as width or depth."
    )
    preprocess: Preprocess | None = Field(
        None,
        description="imagenet, half (.5/.5), unit (x/255), none (pixels as given), or mean and std by numbers; "
        "left out: imagenet for 3 channels, half for others, none for data that is not uint8.",
    )
