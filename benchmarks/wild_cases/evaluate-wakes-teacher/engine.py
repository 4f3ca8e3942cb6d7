"""Training and evaluation loops."""
import torch
import torch.nn.functional as F


def train_one_epoch(model, loader, optimizer, loss_fn=F.cross_entropy, teacher=None):
    total = 0.0
    for x, y in loader:
        out = model(x)
        if teacher is None:
            loss = loss_fn(out, y)
        else:
            with torch.no_grad():
                t = teacher(x)
            loss = loss_fn(out, t, y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.item()
    return total / len(loader)


def evaluate(model, loader):
    """Accuracy in per cent; the model is ready to be trained on afterwards."""
    model.eval()
    hit = seen = 0
    with torch.no_grad():
        for x, y in loader:
            hit += (model(x).argmax(1) == y).sum().item()
            seen += len(y)
    model.train()
    return 100 * hit / seen
