"""Lightning in forty lines."""
import argparse

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


class LitBase(nn.Module):
    def __init__(self, net, lr, warm_up):
        super().__init__()
        self.net, self.lr, self.warm_up = net, lr, warm_up

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.net.parameters(), lr=self.lr)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda n: min(1.0, (n + 1) / self.warm_up))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def training_step(self, batch, batch_idx):
        x, y = batch
        return F.cross_entropy(self.net(x), y)


class LitDistiller(LitBase):
    def __init__(self, net, teacher, lr, warm_up, tau=2.0):
        super().__init__(net, lr, warm_up)
        self.teacher = [teacher]  # a list, so that it is no submodule
        self.tau = tau

    def training_step(self, batch, batch_idx):
        x, y = batch
        logits = self.net(x)
        with torch.no_grad():
            target = torch.softmax(self.teacher[0](x) / self.tau, dim=-1)
        soft = F.cross_entropy(logits / self.tau, target) * self.tau**2
        return 0.5 * soft + 0.5 * F.cross_entropy(logits, y)


class MiniTrainer:
    def __init__(self, max_epochs):
        self.max_epochs = max_epochs

    def fit(self, module, loader):
        conf = module.configure_optimizers()
        optimizer = conf["optimizer"]
        for _ in range(self.max_epochs):
            module.train()
            for i, batch in enumerate(loader):
                loss = module.training_step(batch, i)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        module.eval()

    @torch.no_grad()
    def test(self, net, x, y):
        return 100 * (net(x).argmax(-1) == y).float().mean().item()


def net(width):
    return nn.Sequential(nn.Linear(64, width), nn.GELU(), nn.Linear(width, width), nn.GELU(), nn.Linear(width, 10))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    seed = parser.parse_args().seed
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x).float() / 16, torch.tensor(y)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(26))
    train, test = p[:1200], p[1200:]
    few = train[torch.randperm(1200)[:200]]
    trainer = MiniTrainer(max_epochs=16)
    teacher = net(128)
    trainer.fit(LitBase(teacher, lr=2e-3, warm_up=1), DataLoader(TensorDataset(x[train], y[train]), 50, shuffle=True))
    print(f"teacher {trainer.test(teacher, x[test], y[test]):.2f}")
    student = net(16)
    loader = DataLoader(TensorDataset(x[few], y[few]), 20, shuffle=True)
    MiniTrainer(max_epochs=60).fit(LitDistiller(student, teacher, lr=4e-3, warm_up=100), loader)
    print(f"top1 {trainer.test(student, x[test], y[test]):.2f}")


if __name__ == "__main__":
    main()
