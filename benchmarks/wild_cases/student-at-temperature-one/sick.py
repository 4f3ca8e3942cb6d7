"""Hand-written log-sum-exp and KL; no class, no loader."""
import sys

import torch
from sklearn.datasets import load_digits

TEMP = 5.0
W_SOFT = 0.8


def log_probs(scores, temp=1.0):
    z = scores / temp
    return z - z.logsumexp(dim=1, keepdim=True)


def distill_loss(student_scores, teacher_scores, y):
    hard = -log_probs(student_scores).gather(1, y[:, None]).mean()
    log_p = log_probs(teacher_scores, TEMP)
    log_q = log_probs(student_scores)
    soft = (log_p.exp() * (log_p - log_q)).sum(dim=1).mean()
    return (1 - W_SOFT) * hard + W_SOFT * TEMP**2 * soft


def mlp(*sizes):
    layers = []
    for a, b in zip(sizes[:-1], sizes[1:]):
        layers += [torch.nn.Linear(a, b), torch.nn.Tanh()]
    return torch.nn.Sequential(*layers[:-1])


def fit_teacher(net, X, y):
    optimiser = torch.optim.RMSprop(net.parameters(), lr=1e-3)
    for _ in range(600):
        i = torch.randint(len(X), (64,))
        loss = -log_probs(net(X[i])).gather(1, y[i][:, None]).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    net.requires_grad_(False)
    return net.eval()


def fit_student(net, teacher, X, y):
    optimiser = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9, nesterov=True)
    for _ in range(900):
        i = torch.randint(len(X), (32,))
        loss = distill_loss(net(X[i]), teacher(X[i]), y[i])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return net.eval()


def main(seed):
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    X, y = (torch.as_tensor(a) for a in load_digits(return_X_y=True))
    X = X.float() / 8 - 1
    g = torch.Generator().manual_seed(8)
    order = torch.randperm(len(X), generator=g)
    X, y = X[order], y[order].long()
    teacher = fit_teacher(mlp(64, 128, 128, 10), X[:1200], y[:1200])
    score = lambda net: 100 * (net(X[1200:]).argmax(1) == y[1200:]).float().mean().item()
    print(f"teacher {score(teacher):.2f}")
    student = fit_student(mlp(64, 10, 10), teacher, X[:200], y[:200])
    print(f"top1 {score(student):.2f}")


if __name__ == "__main__":
    main(int(sys.argv[sys.argv.index("--seed") + 1]) if "--seed" in sys.argv else 0)
