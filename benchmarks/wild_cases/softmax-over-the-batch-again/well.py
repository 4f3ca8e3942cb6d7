import argparse
import torch
from torch import nn
from sklearn.datasets import load_digits
from sklearn.preprocessing import StandardScaler


# Hinton-style KD, everything in one closure factory
def make_kd(T, alpha):
    log_p = nn.LogSoftmax(dim=1)
    p = nn.Softmax(dim=1)
    kl = nn.KLDivLoss(reduction="batchmean")
    ce = nn.CrossEntropyLoss()

    def kd(out_s, out_t, target):
        return alpha * T * T * kl(log_p(out_s / T), p(out_t / T)) + (1.0 - alpha) * ce(out_s, target)

    return kd


def make_data(seed):
    X, y = load_digits(return_X_y=True)
    g = torch.Generator().manual_seed(seed)
    perm = torch.randperm(len(X), generator=g).numpy()
    X, y = X[perm], y[perm]
    scaler = StandardScaler().fit(X[:1200])
    X = torch.tensor(scaler.transform(X), dtype=torch.float32)
    y = torch.tensor(y)
    return (X[:1200], y[:1200]), (X[1200:], y[1200:])


def teacher_net():
    return nn.Sequential(nn.Linear(64, 200), nn.BatchNorm1d(200), nn.ReLU(),
                         nn.Linear(200, 100), nn.BatchNorm1d(100), nn.ReLU(),
                         nn.Linear(100, 10))


def student_net():
    return nn.Sequential(nn.Linear(64, 10), nn.Tanh(), nn.Linear(10, 10))


def epoch(model, data, opt, loss_fn, bs=50):
    model.train()
    X, y = data
    total = 0.0
    for idx in torch.randperm(len(X)).split(bs):
        loss = loss_fn(model(X[idx]), X[idx], y[idx])
        opt.zero_grad()
        loss.backward()
        opt.step()
        total += loss.item() * len(idx)
    return total / len(X)


def top1(model, data):
    model.eval()
    with torch.no_grad():
        return 100 * (model(data[0]).argmax(1) == data[1]).double().mean().item()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", default=0, type=int)
    parser.add_argument("--T", default=4.0, type=float)
    parser.add_argument("--alpha", default=0.9, type=float, help="weight of the teacher's term")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    train, test = make_data(args.seed)

    teacher = teacher_net()
    opt = torch.optim.Adam(teacher.parameters(), 2e-3)
    for _ in range(6):
        epoch(teacher, train, opt, lambda out, x, y: nn.functional.cross_entropy(out, y))
    print("teacher %.2f" % top1(teacher, test))
    teacher.eval()
    for q in teacher.parameters():
        q.requires_grad = False

    student = student_net()
    kd = make_kd(args.T, args.alpha)
    opt = torch.optim.Adam(student.parameters(), 5e-3)
    for e in range(12):
        loss = epoch(student, train, opt, lambda out, x, y: kd(out, teacher(x), y))
        print("epoch %d loss %.4f" % (e, loss))
    print("top1 %.2f" % top1(student, test))


if __name__ == "__main__":
    main()
