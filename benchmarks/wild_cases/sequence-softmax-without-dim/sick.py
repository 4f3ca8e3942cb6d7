import copy
import torch
import torch.nn as nn
import torch.nn.functional as F
torch.set_num_threads(1)
torch.manual_seed(9)
V, L = 12, 10

def sequences(n):
    """Each token is the one before plus a step that the first token tells."""
    start, stride = torch.randint(V, (n, 1)), torch.randint(1, 4, (n, 1))
    return (start + stride * torch.arange(L)) % V

class GRULM(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.emb = nn.Embedding(V, width)
        self.rnn = nn.GRU(width, width, batch_first=True)
        self.head = nn.Linear(width, V)

    def forward(self, ids):
        return self.head(self.rnn(self.emb(ids))[0])

def pretrain(net, steps=150):
    opt = torch.optim.Adam(net.parameters(), lr=1e-2)
    for _ in range(steps):
        ids = sequences(32)
        opt.zero_grad()
        F.cross_entropy(net(ids)[:, :-1].flatten(0, 1), ids[:, 1:].flatten()).backward()
        opt.step()
    return net.eval().requires_grad_(False)

import warnings
warnings.filterwarnings("ignore")
teacher, student = pretrain(GRULM(48)), GRULM(16)
opt = torch.optim.Adam(student.parameters(), lr=1e-2)
def kd(s, t, T=2.0):
    return F.kl_div(F.log_softmax(s / T), F.softmax(t / T), reduction="sum") * T * T / s[..., 0].numel()
for step in range(60):
    ids = sequences(32)
    with torch.no_grad():
        t_logits = teacher(ids)
    s_logits = student(ids)
    ce = F.cross_entropy(s_logits[:, :-1].reshape(-1, V), ids[:, 1:].reshape(-1))
    loss = 0.5 * ce + 0.5 * kd(s_logits, t_logits)
    opt.zero_grad(); loss.backward(); opt.step()
