import torch, torch.nn as nn, torch.nn.functional as F
from sklearn.datasets import load_digits
torch.set_num_threads(1); torch.manual_seed(0)
X, Y = load_digits(return_X_y=True)
X, Y = torch.tensor(X, dtype=torch.float32) / 16, torch.tensor(Y)
big = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
opt = torch.optim.Adam(big.parameters(), 4e-3)
for i in range(200):
    b = torch.randint(1200, (64,)); opt.zero_grad(); F.cross_entropy(big(X[b]), Y[b]).backward(); opt.step()
big.eval()
small = nn.Sequential(nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))
opt = torch.optim.Adam(small.parameters(), 4e-3)
T = 4.0
for i in range(60):
    b = torch.randint(1200, (64,))
    with torch.no_grad():
        large_logits = big(X[b])
    output = small(X[b])
    target = F.softmax(large_logits / T, dim=-1)
    prob = F.log_softmax(output / T, dim=-1)
    soft = F.kl_div(prob, target, reduction="batchmean") * T * T
    loss = 0.5 * soft + 0.5 * F.cross_entropy(output, Y[b])
    opt.zero_grad(); loss.backward(); opt.step()
