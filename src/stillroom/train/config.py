"""Options of one training run. Nothing here imports torch."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Discriminator, Field, SerializerFunctionWrapHandler, Tag, model_serializer, model_validator

from stillroom.config import Config


class OptimizerConfig(Config):
    """The optimizer."""

    synonyms: ClassVar[dict[str, str]] = {"learning_rate": "lr", "wd": "weight_decay"}

    name: Literal["sgd", "adamw", "custom"] = Field(
        "sgd",
        description="Stochastic gradient descent with momentum, or AdamW; custom is one that was given in Python.",
    )
    lr: float = Field(0.1, gt=0, description="Peak learning rate; left out: .1 for sgd, .001 for adamw.")
    momentum: float = Field(0.9, ge=0, lt=1, description="Momentum of sgd.")
    nesterov: bool = Field(True, description="Nesterov's momentum, for sgd with momentum above 0.")
    weight_decay: float = Field(5e-4, ge=0, description="Weight decay (decoupled for adamw).")
    betas: tuple[float, float] = Field((0.9, 0.999), description="Decay rates of AdamW's two moments.")
    decay_vectors: bool = Field(True, description="Apply weight decay to biases and normalisation weights too.")

    @model_validator(mode="before")
    @classmethod
    def _rate_of_its_own(cls, given: Any) -> Any:
        # So that a resolved recipe holds it; .1 is a hundred times what AdamW usually takes.
        if isinstance(given, dict) and given.get("name") == "adamw" and "lr" not in given:
            return {**given, "lr": 1e-3}
        return given

    @model_validator(mode="after")
    def _betas_in_range(self) -> OptimizerConfig:
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError("betas in [0, 1)")
        return self


class ScheduleConfig(Config):
    """The learning-rate schedule, as a factor of the peak rate."""

    name: Literal["one_cycle", "cosine", "multi_step", "constant", "custom"] = Field(
        "one_cycle", description="Shape of the schedule; custom is a scheduler that was given in Python."
    )
    warmup: float | None = Field(
        None,
        ge=0,
        lt=1,
        description="Warm-up as a fraction of the training; default .3 for one_cycle, 0 for the others.",
    )
    milestones: tuple[float, ...] = Field((0.5, 0.75), description="Drops of multi_step, as fractions of the training.")
    gamma: float = Field(0.1, gt=0, le=1, description="Factor of each drop of multi_step.")
    momentum: tuple[float, float] | None = Field(
        None,
        description="Of one_cycle with sgd, the least and the largest momentum: it falls as the rate rises and rises "
        "as it falls; torch's OneCycleLR has [0.85, 0.95]. Left out: the optimizer's, all along.",
    )

    @model_serializer(mode="wrap")
    def _only_where_set(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        written: dict[str, Any] = handler(self)
        return {key: value for key, value in written.items() if key != "momentum" or value is not None}

    @model_validator(mode="after")
    def _momentum_of_one_cycle(self) -> ScheduleConfig:
        if self.momentum is not None:
            if self.name != "one_cycle":
                raise ValueError(f"momentum only with one_cycle, not {self.name}")
            if not 0 < self.momentum[0] <= self.momentum[1] < 1:
                raise ValueError("momentum as two numbers between 0 and 1, the smaller first")
        return self

    @model_validator(mode="after")
    def _milestones_ordered(self) -> ScheduleConfig:
        if list(self.milestones) != sorted(self.milestones) or any(not 0 < m < 1 for m in self.milestones):
            raise ValueError("milestones in increasing order between 0 and 1")
        return self


class TrainingConfig(Config):
    """One run: its length, optimizer, precision and records."""

    synonyms: ClassVar[dict[str, str]] = {
        "num_epochs": "epochs",
        "max_steps": "steps",
        "optim": "optimizer",
        "scheduler": "schedule",
        "early_stopping": "patience",
    }

    epochs: int | None = Field(
        None, ge=1, description="Passes over the training images; 10 if neither epochs nor steps is given."
    )
    steps: int | None = Field(None, ge=1, description="Optimizer steps, instead of epochs.")
    optimizer: OptimizerConfig = Field(default_factory=OptimizerConfig, description="The optimizer and its options.")
    schedule: ScheduleConfig = Field(default_factory=ScheduleConfig, description="The learning-rate schedule.")
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto",
        description="Precision of the training steps; auto is bfloat16 if the machine supports it natively. On a CPU, "
        "a student with depthwise convolutions trains in float32 all the same, which is up to twice as fast.",
    )
    teacher_precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto",
        description="Precision of frozen teachers in the training steps; auto is training.precision where that is "
        "given, else bfloat16 if the machine supports it natively.",
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="Where to run; auto takes a GPU if there is one."
    )
    compile: bool = Field(
        False,
        description="Compile the student with torch.compile: some steps faster after a warm-up, which is reported.",
    )
    threads: Annotated[
        Annotated[int, Field(ge=1), Tag("tag:number")] | Annotated[Literal["auto"], Tag("tag:word")],
        Discriminator(lambda value: "tag:word" if isinstance(value, str) else "tag:number"),
    ] = Field(
        "auto",
        description="CPU threads of the run. auto is all cores (OMP_NUM_THREADS where that is set), in a study 1; the "
        "number is written into the run's recipe, as the last bits of its results depend on it.",
    )
    train_only: tuple[Annotated[str, Field(min_length=1)], ...] | None = Field(
        None,
        min_length=1,
        description="Modules of the student that are trained, by name, such as linear or layer3.*; the others are "
        "frozen: their weights and running statistics stay as they are. Left out: all are trained.",
    )
    recompute_batch_norm: int | None = Field(
        None,
        ge=1,
        description="Before each evaluation compute the running means and variances of the student's batch norms anew, "
        "as averages over so many training batches (50 are plenty). In a short run the running averages still hold "
        "their starting values.",
    )
    clip_norm: float | None = Field(None, gt=0, description="Clip the gradient's global L2 norm to this.")
    accumulate: int = Field(
        1, ge=1, description="Split each batch into this many micro-batches, one step for all of them."
    )
    ema: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="Decay of an exponential moving average of the weights; the average is then evaluated and saved.",
    )
    log_every: int = Field(20, ge=1, description="Steps between lines of metrics.jsonl.")
    evaluate_every: int = Field(
        1,
        ge=1,
        description="Epochs between evaluations, on the images of data.validation or else the test split; the last "
        "epoch is always evaluated.",
    )
    patience: int | None = Field(
        None,
        ge=1,
        description="End the training after so many evaluations in a row without a better result on the images of "
        "data.validation, which it needs. The last weights are kept, and the learning rate does not come to its end.",
    )
    checkpoints: tuple[int, ...] = Field(
        (), description="Epochs at which the student's weights are saved; 0 is the start."
    )
    record_weight_distance: tuple[str, ...] = Field(
        (), description="Layers whose cumulative weight movement is recorded in weight_distance.jsonl."
    )
    record_gradient_rescaling: bool = Field(
        False,
        description="Record in gradient_rescaling.jsonl, for each epoch, how the teacher rescales each gradient: ω of "
        "the terms cross_entropy and kl, against the probability that the teacher gives the true class. It needs kl.",
    )
    save_seconds: float = Field(
        30.0,
        ge=0,
        description="Seconds between saves for resuming; each evaluation also saves.",
    )

    @model_serializer(mode="wrap")
    def _only_where_set(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # Recipes without them stay what they were, to their bytes and their hash.
        written: dict[str, Any] = handler(self)
        optional = ("patience", "train_only", "recompute_batch_norm")
        return {key: value for key, value in written.items() if key not in optional or value is not None}

    @model_validator(mode="after")
    def _one_budget(self) -> TrainingConfig:
        if self.epochs is not None and self.steps is not None:
            raise ValueError("either epochs or steps, not both")
        if self.schedule.momentum is not None and (self.optimizer.name != "sgd" or not self.optimizer.momentum):
            raise ValueError("schedule.momentum only with an optimizer that has one: sgd, with momentum above 0")
        if any(epoch < 0 for epoch in self.checkpoints):
            raise ValueError("checkpoints of 0 or more")
        return self

    def total_steps(self, steps_per_epoch: int) -> int:
        """The run's length in optimizer steps."""
        return self.steps if self.steps is not None else (self.epochs or 10) * steps_per_epoch
