"""A classifier, as many a repository has one; nothing is distilled."""
import argparse

import torch
from sklearn.datasets import load_digits
from torch import nn, optim
from torch.utils.data import DataLoader, TensorDataset, random_split


class Classifier(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 16, 3, stride=2, padding=1)
        self.drop = nn.Dropout(0.2)
        self.fc = nn.Linear(256, 10)

    def forward(self, x):
        x = torch.relu(self.norm(self.conv1(x)))
        x = torch.relu(self.conv2(x))
        return torch.log_softmax(self.fc(self.drop(x.flatten(1))), dim=1)


def train(model, averaged, device, loader, optimizer):
    model.train()
    for data, target in loader:
        data, target = data.to(device), target.to(device)
        optimizer.zero_grad()
        loss = nn.functional.nll_loss(model(data), target)
        loss.backward()
        optimizer.step()
        averaged.update_parameters(model)


def test(model, device, loader):
    model.eval()
    loss, correct = 0.0, 0
    with torch.no_grad():
        for data, target in loader:
            output = model(data.to(device))
            loss += nn.functional.nll_loss(output, target, reduction="sum").item()
            correct += (output.argmax(1) == target).sum().item()
    return loss / len(loader.dataset), 100 * correct / len(loader.dataset)


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    args = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    device = torch.device("cpu")
    d = load_digits()
    full = TensorDataset(torch.tensor(d.images[:, None] / 16).float(), torch.tensor(d.target))
    train_set, val_set, test_set = random_split(full, [1000, 200, 597], torch.Generator().manual_seed(512))
    loader = DataLoader(train_set, batch_size=50, shuffle=True)
    model = Classifier().to(device)
    averaged = optim.swa_utils.AveragedModel(
        model, multi_avg_fn=optim.swa_utils.get_ema_multi_avg_fn(0.95), use_buffers=True
    )
    optimizer = optim.AdamW(model.parameters(), lr=3e-3)
    scheduler = optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=2)
    for _ in range(12):
        train(model, averaged, device, loader, optimizer)
        loss, _ = test(model, device, DataLoader(val_set, batch_size=200))
        scheduler.step(loss)
    print(f"top1 {test(averaged, device, DataLoader(test_set, batch_size=200))[1]:.2f}")


if __name__ == "__main__":
    main()
