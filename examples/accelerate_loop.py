"""A loop with accelerate that distils, under audit:  accelerate launch examples/accelerate_loop.py"""

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from stillroom.integrations.accelerate import AcceleratorAudit

TAU = 4.0


def net(width: int) -> nn.Module:
    return nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Dropout(0.3), nn.Linear(width, 10))


def train(accelerator: Accelerator, student: nn.Module, teacher: nn.Module | None, loader: DataLoader) -> None:
    optimizer = torch.optim.Adam(student.parameters(), lr=1e-2)
    student, optimizer, loader = accelerator.prepare(student, optimizer, loader)
    for _ in range(3):
        student.train()
        for x, y in loader:
            with accelerator.accumulate(student):
                logits = student(x)
                loss = F.cross_entropy(logits, y)
                if teacher is not None:
                    with torch.no_grad():
                        teacher_logits = teacher(x)
                    log_p = F.log_softmax(logits / TAU, dim=-1)
                    kd = F.kl_div(log_p, F.softmax(teacher_logits / TAU, dim=-1), reduction="batchmean") * TAU**2
                    loss = 0.5 * loss + 0.5 * kd
                accelerator.backward(loss)
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(student.parameters(), 5.0)
                optimizer.step()
                optimizer.zero_grad()


def main() -> AcceleratorAudit:
    torch.manual_seed(0)
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
    pixels, labels = (torch.tensor(each) for each in load_digits(return_X_y=True))
    loader = DataLoader(TensorDataset(pixels[:1200].float() / 16, labels[:1200]), batch_size=32, shuffle=True)
    teacher, student = net(128), net(16)
    train(accelerator, teacher, None, loader)
    teacher.eval()
    with AcceleratorAudit(accelerator) as audit:
        train(accelerator, student, teacher, loader)
    return audit


if __name__ == "__main__":
    main().diagnosis.raise_for_problems()
