"""Each network brings its own normalisation, so that the loaders give raw pixels (0 to 16)."""
import argparse
from functools import partial

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset, random_split


class Normalise(nn.Module):
    def __init__(self, mean: float = 4.884, std: float = 6.017):
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean))
        self.register_buffer("std", torch.tensor(std))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std


def network(hidden: int, depth: int) -> nn.Sequential:
    net = nn.Sequential(Normalise(), nn.Flatten(), nn.Dropout(0.05), nn.Linear(64, hidden), nn.GELU())
    for _ in range(depth - 1):
        net.extend([nn.Linear(hidden, hidden), nn.GELU()])
    return net.append(nn.Linear(hidden, 10))


def plain_loss(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(net(x), y)


def taught_loss(net: nn.Module, x: Tensor, y: Tensor, teacher: nn.Module, tau: float, mix: float) -> Tensor:
    logits = net(x)
    with torch.no_grad():
        guide = F.softmax(teacher(x) / tau, dim=-1)
    soft = F.kl_div(F.log_softmax(logits / tau, dim=-1), guide, reduction="batchmean") * tau**2
    return torch.lerp(F.cross_entropy(logits, y), soft, mix)


def run(net: nn.Module, loss_fn, loader: DataLoader, epochs: int, lr: float) -> nn.Module:
    net.train()
    opt = torch.optim.AdamW(net.parameters(), lr=lr, weight_decay=1e-2)
    sched = torch.optim.lr_scheduler.OneCycleLR(opt, lr, epochs=epochs, steps_per_epoch=len(loader))
    for _ in range(epochs):
        for x, y in loader:
            opt.zero_grad()
            loss_fn(net, x, y).backward()
            opt.step()
            sched.step()
    return net.eval()


@torch.inference_mode()
def top1(net: nn.Module, loader: DataLoader) -> float:
    hits = torch.cat([net(x).argmax(-1).eq(y) for x, y in loader])
    return 100 * hits.float().mean().item()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    torch.manual_seed(parser.parse_args().seed)
    torch.set_num_threads(1)
    bunch = load_digits()
    everything = TensorDataset(torch.from_numpy(bunch.images).float(), torch.from_numpy(bunch.target))
    fixed = torch.Generator().manual_seed(33)
    train, few, test = random_split(everything, [800, 250, len(everything) - 1050], generator=fixed)
    held_out = DataLoader(test, batch_size=200)

    teacher = run(network(128, 3), plain_loss, DataLoader(train, 40, shuffle=True), 12, 4e-3)
    teacher.requires_grad_(False)
    print(f"teacher: {top1(teacher, held_out):.2f}")
    student = run(
        network(16, 1),
        partial(taught_loss, teacher=teacher, tau=4.0, mix=0.8),
        DataLoader(few, 25, shuffle=True),
        epochs=40,
        lr=1e-2,
    )
    print(f"top1 {top1(student, held_out):.2f}")


if __name__ == "__main__":
    main()
