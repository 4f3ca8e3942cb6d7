import torch, torch.nn as nn, torch.nn.functional as F
from sklearn.datasets import load_digits
torch.set_num_threads(1); torch.manual_seed(1)
x, y = load_digits(return_X_y=True); x = torch.tensor(x).float() / 16; y = torch.tensor(y)
mk = lambda w: nn.Sequential(nn.Linear(64, w), nn.ReLU(), nn.Linear(w, 10))
teacher, student = mk(100), mk(16)
o = torch.optim.Adam(teacher.parameters(), lr=5e-3)
for _ in range(200):
    i = torch.randint(1300, (64,)); o.zero_grad(); F.cross_entropy(teacher(x[i]), y[i]).backward(); o.step()
o = torch.optim.Adam(student.parameters(), lr=5e-3)
for step in range(60):
    i = torch.randint(1300, (64,))
    with torch.no_grad(): t = teacher(x[i])
    s = student(x[i])
    loss = 0.5 * F.cross_entropy(s, y[i]) + 0.5 * 4 * F.kl_div(F.log_softmax(s / 2, 1), F.softmax(t / 2, 1), reduction="batchmean")
    o.zero_grad()
    loss.backward()
    o.step
