"""BERT into a smaller BERT by a transformers Trainer, under audit:  pip install 'stillroom[transformers]'

Its loss alone:  stillroom check examples/transformers_text.py:distillation_loss --classes 3
"""

import random
import tempfile
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments

from stillroom.integrations.transformers import TrainerAudit

TAU, LENGTH = 4.0, 12


def distillation_loss(student_logits: Tensor, teacher_logits: Tensor, labels: Tensor) -> Tensor:
    log_p = F.log_softmax(student_logits / TAU, dim=-1)
    kd = F.kl_div(log_p, F.softmax(teacher_logits / TAU, dim=-1), reduction="batchmean") * TAU**2
    return 0.5 * F.cross_entropy(student_logits, labels) + 0.5 * kd


class DistillationTrainer(Trainer):
    def __init__(self, *args: Any, teacher: nn.Module, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.teacher = teacher

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Tensor], return_outputs: bool = False, **kwargs: Any
    ) -> Any:
        outputs = model(**inputs)
        with torch.no_grad():
            teacher_logits = self.teacher(inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits
        loss = distillation_loss(outputs.logits, teacher_logits, inputs["labels"])
        return (loss, outputs) if return_outputs else loss


def texts(count: int) -> list[dict[str, Any]]:
    """Texts whose class is said by one of their tokens, 40 to 42."""
    draw, made = random.Random(0), []
    for _ in range(count):
        label, length = draw.randrange(3), draw.randint(3, LENGTH - 2)
        ids = [2, *(draw.randint(5, 39) for _ in range(length)), 3]
        ids[draw.randint(1, length)] = 40 + label
        padding = [0] * (LENGTH - len(ids))
        made.append({"input_ids": ids + padding, "attention_mask": [1] * len(ids) + padding, "labels": label})
    return made


def bert(width: int) -> nn.Module:
    sizes = {"hidden_size": width, "intermediate_size": 2 * width, "num_hidden_layers": 1, "num_attention_heads": 2}
    return BertForSequenceClassification(
        BertConfig(vocab_size=50, max_position_embeddings=LENGTH, num_labels=3, **sizes)
    )


def main() -> TrainerAudit:
    torch.manual_seed(0)
    data = texts(512)
    with tempfile.TemporaryDirectory() as folder:
        options: dict[str, Any] = {"output_dir": folder, "per_device_train_batch_size": 32, "learning_rate": 5e-3}
        options |= {"report_to": [], "save_strategy": "no", "use_cpu": True, "disable_tqdm": True}
        args = TrainingArguments(**options, num_train_epochs=4)
        teacher = bert(32)
        Trainer(model=teacher, args=args, train_dataset=data).train()
        teacher.eval()
        audit = TrainerAudit()
        trainer = DistillationTrainer(model=bert(16), args=args, train_dataset=data, teacher=teacher, callbacks=[audit])
        trainer.train()
    return audit


if __name__ == "__main__":
    main().diagnosis.raise_for_problems()
