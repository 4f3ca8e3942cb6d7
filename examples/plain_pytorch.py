"""A distillation in plain PyTorch: a teacher, a student from labels, a student from both."""

from collections.abc import Callable

# %% Data: 200 images with labels for the students, 1,000 for the teacher.
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

EPOCHS, BATCH, TAU = 30, 50, 4.0
pixels, labels = (torch.tensor(each) for each in load_digits(return_X_y=True))
images = pixels.float().view(-1, 1, 8, 8) / 16
few, rest, test = slice(0, 200), slice(200, 1200), slice(1200, None)


# %% Models, and the loss of Hinton et al.
def net(width: int) -> nn.Module:
    torch.manual_seed(0)
    first = nn.Conv2d(1, width, 3, bias=False), nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, width, 3), nn.ReLU()
    return nn.Sequential(*first, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * width, 10))


def distillation_loss(student_logits: Tensor, teacher_logits: Tensor, y: Tensor) -> Tensor:
    log_p, q = F.log_softmax(student_logits / TAU, dim=1), F.softmax(teacher_logits / TAU, dim=1)
    return 0.1 * F.cross_entropy(student_logits, y) + 0.9 * TAU**2 * F.kl_div(log_p, q, reduction="batchmean")


# %% The loop. The order of an epoch can be given, so that another program can take the same steps.
def shuffled(size: int, epoch: int) -> Tensor:
    return torch.randperm(size, generator=torch.Generator().manual_seed(epoch))


def train(
    model: nn.Module, x: Tensor, y: Tensor, teacher: nn.Module | None = None, order: Callable[..., Tensor] = shuffled
) -> nn.Module:
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    model.train()
    for epoch in range(EPOCHS):
        for batch in order(len(x), epoch).split(BATCH):
            logits = model(x[batch])
            if teacher is None:
                loss = F.cross_entropy(logits, y[batch])
            else:
                with torch.no_grad():
                    teacher_logits = teacher(x[batch])
                loss = distillation_loss(logits, teacher_logits, y[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model.eval()


@torch.no_grad()
def top1(model: nn.Module) -> float:
    return 100 * (model(images[test]).argmax(1) == labels[test]).float().mean().item()


# %% Three trainings.
def main() -> tuple[nn.Module, nn.Module]:
    teacher = train(net(32), images[rest], labels[rest])
    from_labels = train(net(4), images[few], labels[few])
    distilled = train(net(4), images[few], labels[few], teacher)
    print(f"teacher {top1(teacher):.1f}%, from labels {top1(from_labels):.1f}%, distilled {top1(distilled):.1f}%")
    return teacher, distilled


if __name__ == "__main__":
    main()
