"""Mean teacher, unlabelled consistency."""
import copy, torch, torch.nn as nn, torch.nn.functional as F
from sklearn.datasets import load_digits
torch.set_num_threads(1); torch.manual_seed(1)
x, y = load_digits(return_X_y=True); x = torch.tensor(x).float() / 16; y = torch.tensor(y)
class EMA:
    def __init__(self, model, m):
        self.m = m
        self.shadow = {k: v.clone() for k, v in model.state_dict().items()}
    def update(self, model):
        for k, v in model.state_dict().items():
            self.shadow[k].mul_(self.m).add_(v, alpha=1 - self.m)
net = nn.Sequential(nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 10))
teacher = copy.deepcopy(net).requires_grad_(False)
ema = EMA(net, 0.95)
opt = torch.optim.Adam(net.parameters(), 3e-3)
for step in range(80):
    l, u = torch.randint(100, (32,)), torch.randint(1500, (64,))
    with torch.no_grad(): soft = teacher(x[u]).softmax(1)
    loss = F.cross_entropy(net(x[l]), y[l]) + 3.0 * (net(x[u] + .1 * torch.randn(64, 64)).softmax(1) - soft).pow(2).mean()
    opt.zero_grad(); loss.backward(); opt.step()
    ema.update(net)
