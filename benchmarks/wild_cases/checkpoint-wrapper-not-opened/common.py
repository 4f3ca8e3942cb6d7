"""What both stages share: data, network, checkpoints."""
import torch
import torch.nn as nn
from sklearn.datasets import load_digits


class SmallVGG(nn.Module):
    def __init__(self, width=16):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(width, 2 * width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        )
        self.classifier = nn.Sequential(nn.Flatten(), nn.Linear(8 * width, 10))

    def forward(self, x):
        return self.classifier(self.features(x))


def get_digits():
    d = load_digits()
    x, y = torch.tensor(d.images).float()[:, None] / 16, torch.tensor(d.target)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(44))
    return (x[p[:1000]], y[p[:1000]]), (x[p[1000:]], y[p[1000:]])


def save_checkpoint(path, model, optimizer, epoch, acc):
    torch.save({"state_dict": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": epoch, "acc": acc}, path)


@torch.no_grad()
def accuracy(model, x, y):
    was = model.training
    model.eval()
    out = (model(x).argmax(1) == y).float().mean().item()
    model.train(was)
    return 100 * out
