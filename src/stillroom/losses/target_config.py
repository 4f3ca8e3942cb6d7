"""Which part of the teacher's answer ``kl`` teaches, as a recipe names it. Nothing here imports torch."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag

from stillroom.config import Config
from stillroom.errors import nearest

# The whole answer, which is what is taught where no target is named.
FULL = "full"


class UniformConfig(Config):
    """Every class alike, as label smoothing: universe knowledge alone. The teacher is not asked."""

    name: Literal["uniform"] = "uniform"


class _Similarity(Config):
    name: str
    power: float = Field(
        0.3, gt=0, description="a of softmax(sign(c)·|c|^a / b), c the cosines of rows of the teacher's last layer."
    )
    temperature: float = Field(
        0.3, gt=0, description="b of it. The paper's range for both is .1 to .5, and its values are not certain: sweep."
    )


class ClassSimilarityConfig(_Similarity):
    """How alike the teacher's last layer finds the classes: domain knowledge alone."""

    name: Literal["class_similarity"] = "class_similarity"


class TopKConfig(Config):
    """The likeliest classes as the teacher sees them, the others alike: domain as far as reliable, and instance."""

    name: Literal["top_k"] = "top_k"
    k: int = Field(5, ge=1, description="Classes whose probability is kept, up to all of them.")


class TrueClassConfig(Config):
    """The true class as the teacher sees it, the others alike: instance knowledge alone."""

    name: Literal["true_class"] = "true_class"


class TrueClassSimilarityConfig(_Similarity):
    """The true class as the teacher sees it, the others by their likeness to it: domain and instance."""

    name: Literal["true_class_similarity"] = "true_class_similarity"


TargetConfig = UniformConfig | ClassSimilarityConfig | TopKConfig | TrueClassConfig | TrueClassSimilarityConfig
TARGETS: tuple[type[TargetConfig], ...] = (
    UniformConfig,
    ClassSimilarityConfig,
    TopKConfig,
    TrueClassConfig,
    TrueClassSimilarityConfig,
)
NAMES: tuple[str, ...] = (*(str(config.model_fields["name"].default) for config in TARGETS), FULL)
# What is taught at temperature 1: no softened answer of the teacher's is in them.
UNSOFTENED: tuple[type[TargetConfig], ...] = (UniformConfig, ClassSimilarityConfig)


def name_of(target: Any) -> str | None:
    """The name that a target goes by, however it is written: a word, a mapping or its config.

    >>> name_of("top_k"), name_of({"name": "top_k", "k": 3}), name_of(TopKConfig(k=3)), name_of(5)
    ('top_k', 'top_k', 'top_k', None)
    """
    found = target.get("name") if isinstance(target, dict) else getattr(target, "name", target)
    return found if isinstance(found, str) else None


def is_unsoftened(target: Any) -> bool:
    """Whether this is taught at temperature 1 alone, however it is written."""
    return name_of(target) in [config.model_fields["name"].default for config in UNSOFTENED]


def _named(value: Any) -> Any:
    if value is None:
        return None
    name = name_of(value)
    if name is None:
        raise ValueError(f"a name or a mapping with a name, {nearest('', NAMES)}")
    if name not in NAMES:
        raise ValueError(f"a target that exists ({nearest(name, NAMES)})")
    if name == FULL:
        if isinstance(value, dict) and len(value) > 1:
            raise ValueError(f"{FULL} without options")
        return None
    return {"name": name} if isinstance(value, str) else value


def told_as_a_word(schema: dict[str, Any]) -> None:
    """Let an editor know that the name alone will do."""
    schema["anyOf"].insert(0, {"enum": list(NAMES), "type": "string"})


Target = Annotated[
    Annotated[
        Annotated[UniformConfig, Tag("tag:uniform")]
        | Annotated[ClassSimilarityConfig, Tag("tag:class_similarity")]
        | Annotated[TopKConfig, Tag("tag:top_k")]
        | Annotated[TrueClassConfig, Tag("tag:true_class")]
        | Annotated[TrueClassSimilarityConfig, Tag("tag:true_class_similarity")],
        Discriminator(lambda value: f"tag:{name_of(value)}"),
    ]
    | None,
    BeforeValidator(_named),
]
