import argparse, copy, logging
import torch
from torch import nn, optim
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, TensorDataset, random_split

log = logging.getLogger("kd")

DEFAULTS = {
    "teacher": {"width": 20, "epochs": 6, "lr": 0.05},
    "student": {"width": 4, "epochs": 25, "lr": 0.05},
    "kd": {"T": 4.0, "weight": 0.7},
    "clip": 2.0,
    "amp": True,
    "init_scale": 2048.0,
}


class Block(nn.Module):
    def __init__(self, i, o, stride):
        super().__init__()
        self.conv = nn.Conv2d(i, o, 3, stride, 1, bias=False)
        self.bn = nn.BatchNorm2d(o)
        self.skip = nn.Conv2d(i, o, 1, stride, bias=False)

    def forward(self, x):
        return F.relu(self.bn(self.conv(x)) + self.skip(x))


class ResTiny(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.stages = nn.Sequential(Block(1, width, 1), Block(width, width * 2, 2), Block(width * 2, width * 2, 2))
        self.classifier = nn.Linear(width * 2 * 4, 10)

    def forward(self, x):
        return self.classifier(self.stages(x).flatten(1))


class Trainer:
    """One trainer for both; with a teacher it distils."""

    def __init__(self, model, cfg, lr, teacher=None):
        self.model, self.cfg = model, cfg
        self.teacher = teacher
        self.optimizer = optim.SGD(model.parameters(), lr=lr, momentum=0.9, weight_decay=5e-4, nesterov=True)
        self.scaler = torch.amp.GradScaler("cpu", init_scale=cfg["init_scale"], enabled=cfg["amp"])

    def compute_loss(self, x, y):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.cfg["amp"]):
            logits = self.model(x)
            if self.teacher is not None:
                with torch.no_grad():
                    target = self.teacher(x)
        logits = logits.float()
        loss = F.cross_entropy(logits, y)
        if self.teacher is not None:
            T, w = self.cfg["kd"]["T"], self.cfg["kd"]["weight"]
            kl = F.kl_div(F.log_softmax(logits / T, 1), F.softmax(target.float() / T, 1), reduction="batchmean")
            loss = (1 - w) * loss + w * T**2 * kl
        return loss

    def train_step(self, x, y):
        loss = self.compute_loss(x, y)
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        self.scaler.unscale_(self.optimizer)
        nn.utils.clip_grad_norm_(self.model.parameters(), self.cfg["clip"])
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return loss.item()

    def fit(self, loader, epochs):
        for epoch in range(epochs):
            self.model.train()
            losses = [self.train_step(x, y) for x, y in loader]
            log.info("epoch %d loss %.4f", epoch, sum(losses) / len(losses))
        self.model.eval()
        return self.model

    @torch.no_grad()
    def test(self, loader):
        self.model.eval()
        right = sum((self.model(x).argmax(1) == y).sum().item() for x, y in loader)
        return 100 * right / len(loader.dataset)


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--verbose", action="store_true")
    args = p.parse_args()
    logging.basicConfig(level=logging.INFO if args.verbose else logging.WARNING)
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    cfg = copy.deepcopy(DEFAULTS)
    x, y = load_digits(return_X_y=True)
    data = TensorDataset(torch.tensor(x).float().view(-1, 1, 8, 8) / 16 - 0.3, torch.tensor(y))
    train, test = random_split(data, [1200, len(data) - 1200], torch.Generator().manual_seed(2))
    few, _ = random_split(train, [240, 960], torch.Generator().manual_seed(args.seed))
    test_loader = DataLoader(test, 300)

    # the teacher is small enough for float32
    t = Trainer(ResTiny(cfg["teacher"]["width"]), {**cfg, "amp": False}, cfg["teacher"]["lr"])
    teacher = t.fit(DataLoader(train, 48, shuffle=True), cfg["teacher"]["epochs"]).requires_grad_(False)
    print(f"teacher {t.test(test_loader):.2f}")

    s = Trainer(ResTiny(cfg["student"]["width"]), cfg, cfg["student"]["lr"], teacher)
    s.fit(DataLoader(few, 24, shuffle=True), cfg["student"]["epochs"])
    print(f"top1 {s.test(test_loader):.2f}")


if __name__ == "__main__":
    main()
