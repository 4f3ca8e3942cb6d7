"""A LightningModule that distils, under audit:  pip install 'stillroom[lightning]'"""

import lightning as L
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from stillroom.integrations.lightning import LightningAudit

TAU = 4.0


def net(width: int) -> nn.Module:
    return nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Dropout(0.3), nn.Linear(width, 10))


class Classifier(L.LightningModule):
    def __init__(self, student: nn.Module) -> None:
        super().__init__()
        self.student = student

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        x, y = batch
        return F.cross_entropy(self.student(x), y)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.student.parameters(), lr=1e-2)


class Distiller(Classifier):
    def __init__(self, student: nn.Module, teacher: nn.Module) -> None:
        super().__init__(student)
        self.teacher = teacher.requires_grad_(False)

    def on_train_epoch_start(self) -> None:
        self.teacher.eval()

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        x, y = batch
        logits = self.student(x)
        with torch.no_grad():
            teacher_logits = self.teacher(x)
        log_p = F.log_softmax(logits / TAU, dim=-1)
        kd = F.kl_div(log_p, F.softmax(teacher_logits / TAU, dim=-1), reduction="batchmean") * TAU**2
        return 0.5 * F.cross_entropy(logits, y) + 0.5 * kd


def main() -> LightningAudit:
    torch.manual_seed(0)
    pixels, labels = (torch.tensor(each) for each in load_digits(return_X_y=True))
    loader = DataLoader(TensorDataset(pixels[:1200].float() / 16, labels[:1200]), batch_size=64, shuffle=True)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    quiet |= {"enable_model_summary": False}
    teacher = Classifier(net(128))
    L.Trainer(max_epochs=3, accelerator="cpu", **quiet).fit(teacher, loader)
    audit = LightningAudit()
    trainer = L.Trainer(max_epochs=3, accelerator="cpu", callbacks=[audit], **quiet)
    trainer.fit(Distiller(net(16), teacher.student), loader)
    return audit


if __name__ == "__main__":
    main().diagnosis.raise_for_problems()
