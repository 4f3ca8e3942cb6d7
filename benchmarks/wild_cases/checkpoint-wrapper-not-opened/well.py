"""Stage one trains and saves the teacher; stage two loads it and distils."""
import argparse
import os
import tempfile

import torch
import torch.nn.functional as F

from common import SmallVGG, accuracy, get_digits, save_checkpoint


def stage_one(path, epochs=6):
    (x, y), (xt, yt) = get_digits()
    model = SmallVGG(16)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    best = 0.0
    for epoch in range(epochs):
        model.train()
        for i in torch.randperm(len(x)).split(50):
            optimizer.zero_grad()
            F.cross_entropy(model(x[i]), y[i]).backward()
            optimizer.step()
        acc = accuracy(model, xt, yt)
        if acc > best:
            best = acc
            save_checkpoint(path, model, optimizer, epoch, acc)
    print(f"stage one: best {best:.2f}")


def load_teacher(path):
    teacher = SmallVGG(16)
    checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    teacher.load_state_dict(checkpoint["state_dict"])
    for p in teacher.parameters():
        p.requires_grad = False
    return teacher.eval()


def stage_two(path, T, alpha, epochs=25):
    (x, y), (xt, yt) = get_digits()
    x, y = x[:300], y[:300]
    teacher = load_teacher(path)
    student = SmallVGG(4)
    optimizer = torch.optim.SGD(student.parameters(), lr=0.02, momentum=0.9, weight_decay=1e-4)
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [15, 21], gamma=0.2)
    for epoch in range(epochs):
        student.train()
        for i in torch.randperm(len(x)).split(25):
            s, t = student(x[i]), teacher(x[i])
            kd = F.kl_div(F.log_softmax(s / T, 1), F.softmax(t / T, 1), reduction="batchmean") * T * T
            loss = (1 - alpha) * F.cross_entropy(s, y[i]) + alpha * kd
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        scheduler.step()
    return accuracy(student, xt, yt)


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("--temperature", type=float, default=3.0)
    ap.add_argument("--alpha", type=float, default=0.8)
    args = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "teacher.pth")
        stage_one(path)
        print(f"top1 {stage_two(path, args.temperature, args.alpha):.2f}")


if __name__ == "__main__":
    main()
