"""Six classes are known to a recurrent reader; four more arrive, with a few kept images of the old ones."""
import argparse

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F

OLD, NEW = 6, 4


class RowReader(nn.Module):
    def __init__(self, classes, hidden=48):
        super().__init__()
        self.lstm = nn.LSTM(8, hidden, batch_first=True)
        self.fc = nn.Linear(hidden, classes)

    def forward(self, rows):
        _, (h, _) = self.lstm(rows)
        return self.fc(h[-1])

    def grown(self, more):
        bigger = RowReader(self.fc.out_features + more, self.lstm.hidden_size)
        bigger.lstm.load_state_dict(self.lstm.state_dict())
        with torch.no_grad():
            bigger.fc.weight[: self.fc.out_features] = self.fc.weight
            bigger.fc.bias[: self.fc.out_features] = self.fc.bias
        return bigger


def knowledge_kept(logits, old_logits, tau=2.0):
    seen = old_logits.size(1)
    log_q = (logits[:, :seen] / tau).log_softmax(1)
    p = (old_logits / tau).softmax(1)
    return tau * tau * (p * (p.log() - log_q)).sum(1).mean()


def batches(n, size, epochs):
    for _ in range(epochs):
        yield from torch.randperm(n).split(size)


def main(argv=None):
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--lam", type=float, default=2.0)
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x).float().view(-1, 8, 8) / 16, torch.tensor(y)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(904))
    (x, tx), (y, ty) = x[p].split([1200, 597]), y[p].split([1200, 597])

    base = RowReader(OLD)
    xo, yo = x[y < OLD], y[y < OLD]
    opt = torch.optim.Adam(base.parameters(), lr=1e-2)
    for b in batches(len(xo), 64, 12):
        opt.zero_grad()
        F.cross_entropy(base(xo[b]), yo[b]).backward()
        opt.step()
    base.eval()
    with torch.no_grad():
        print(f"old classes {100 * (base(tx[ty < OLD]).argmax(1) == ty[ty < OLD]).float().mean():.2f}")

    net = base.grown(NEW)
    kept = torch.nonzero(y < OLD).flatten()[:60]
    rows = torch.cat([torch.nonzero(y >= OLD).flatten(), kept])
    xn, yn = x[rows], y[rows]
    opt = torch.optim.Adam(net.parameters(), lr=5e-3)
    for b in batches(len(xn), 64, 12):
        logits = net(xn[b])
        with torch.no_grad():
            old_logits = base(xn[b])
        loss = F.cross_entropy(logits, yn[b]) + args.lam * knowledge_kept(logits, old_logits)
        opt.zero_grad()
        loss.backward()
        opt.step()
    net.eval()
    with torch.no_grad():
        print(f"top1 {100 * (net(tx).argmax(1) == ty).float().mean().item():.2f}")


if __name__ == "__main__":
    main()
