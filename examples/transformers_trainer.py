"""A transformers Trainer that distils, under audit:  pip install 'stillroom[transformers]'"""

import tempfile
from typing import Any

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn
from transformers import Trainer, TrainingArguments

from stillroom.integrations.transformers import TrainerAudit

TAU = 4.0


class Net(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Dropout(0.3), nn.Linear(width, 10))

    def forward(self, pixels: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        logits = self.net(pixels)
        return {"logits": logits} if labels is None else {"loss": F.cross_entropy(logits, labels), "logits": logits}


class DistillationTrainer(Trainer):
    def __init__(self, *args: Any, teacher: nn.Module, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.teacher = teacher

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Tensor], return_outputs: bool = False, **kwargs: Any
    ) -> Any:
        outputs = model(**inputs)
        with torch.no_grad():
            teacher_logits = self.teacher(inputs["pixels"])["logits"]
        log_p = F.log_softmax(outputs["logits"] / TAU, dim=-1)
        kd = F.kl_div(log_p, F.softmax(teacher_logits / TAU, dim=-1), reduction="batchmean") * TAU**2
        loss = 0.5 * outputs["loss"] + 0.5 * kd
        return (loss, outputs) if return_outputs else loss


def main() -> TrainerAudit:
    torch.manual_seed(0)
    pixels, labels = (torch.tensor(each) for each in load_digits(return_X_y=True))
    data = [{"pixels": x, "labels": y} for x, y in zip(pixels.float() / 16, labels, strict=True)]
    with tempfile.TemporaryDirectory() as folder:
        options: dict[str, Any] = {"output_dir": folder, "per_device_train_batch_size": 64, "learning_rate": 1e-2}
        options |= {"report_to": [], "save_strategy": "no", "use_cpu": True, "disable_tqdm": True}
        args = TrainingArguments(**options, num_train_epochs=3)
        teacher = Net(128)
        Trainer(model=teacher, args=args, train_dataset=data[:1200]).train()
        teacher.eval()
        audit = TrainerAudit()
        trainer = DistillationTrainer(
            model=Net(16), args=args, train_dataset=data[:1200], teacher=teacher, callbacks=[audit]
        )
        trainer.train()
    return audit


if __name__ == "__main__":
    main().diagnosis.raise_for_problems()
