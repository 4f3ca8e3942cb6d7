"""Config-driven: criteria are built from a dict with factors, and forward hooks collect what they read."""
import argparse
from collections import OrderedDict

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F

CONFIG = {
    "models": {
        "teacher_model": {"key": "mlp", "kwargs": {"widths": [160, 96]}},
        "student_model": {"key": "mlp", "kwargs": {"widths": [32, 24]}},
    },
    "train": {
        "num_epochs": 20,
        "batch_size": 50,
        "optimizer": {"key": "SGD", "kwargs": {"lr": 0.05, "momentum": 0.9, "weight_decay": 0.0005}},
        "scheduler": {"key": "MultiStepLR", "kwargs": {"milestones": [12, 17], "gamma": 0.2}},
        "teacher": {"forward_hook": {"output": ["head", "blocks.1"]}},
        "student": {"forward_hook": {"output": ["head", "blocks.1"]}, "auxiliary": {"in": 24, "out": 96}},
        "criterion": {
            "key": "WeightedSumLoss",
            "sub_terms": {
                "ce": {"criterion": {"key": "CrossEntropyLoss", "kwargs": {"reduction": "mean"}}, "factor": 0.5},
                "kd": {"criterion": {"key": "KDLoss", "kwargs": {
                    "student_module_path": "head", "teacher_module_path": "head", "temperature": 3.0,
                    "reduction": "batchmean"}}, "factor": 0.5},
                "hidden": {"criterion": {"key": "HiddenMSE", "kwargs": {
                    "student_module_path": "auxiliary", "teacher_module_path": "blocks.1"}}, "factor": 0.2},
            },
        },
    },
}


class MLP(nn.Module):
    def __init__(self, widths):
        super().__init__()
        sizes = [64] + list(widths)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(a, b), nn.BatchNorm1d(b), nn.ReLU())
                                    for a, b in zip(sizes, sizes[1:]))
        self.head = nn.Linear(sizes[-1], 10)

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return self.head(x)


class StudentWithAuxiliary(nn.Module):
    """The auxiliary module sees the second block's output; inference does not use its answer."""

    def __init__(self, model, aux):
        super().__init__()
        self.model = model
        self.auxiliary = nn.Linear(aux["in"], aux["out"])

    def forward(self, x):
        for block in self.model.blocks:
            x = block(x)
        self.auxiliary(x)
        return self.model.head(x)


MODELS = {"mlp": MLP}


class KDLoss(nn.KLDivLoss):
    def __init__(self, student_module_path, teacher_module_path, temperature, reduction="batchmean"):
        super().__init__(reduction=reduction)
        self.student_module_path = student_module_path
        self.teacher_module_path = teacher_module_path
        self.temperature = temperature

    def compute(self, student_logits, teacher_logits):
        soft_loss = super().forward(torch.log_softmax(student_logits / self.temperature, dim=1),
                                    torch.softmax(teacher_logits / self.temperature, dim=1))
        return (self.temperature ** 2) * soft_loss

    def forward(self, student_io_dict, teacher_io_dict, targets):
        return self.compute(student_io_dict[self.student_module_path]["output"],
                            teacher_io_dict[self.teacher_module_path]["output"])


class HiddenMSE(nn.Module):
    def __init__(self, student_module_path, teacher_module_path):
        super().__init__()
        self.s, self.t = student_module_path, teacher_module_path

    def forward(self, student_io_dict, teacher_io_dict, targets):
        return F.mse_loss(student_io_dict[self.s]["output"], teacher_io_dict[self.t]["output"])


class HardLoss(nn.Module):
    def __init__(self, **kwargs):
        super().__init__()
        self.criterion = nn.CrossEntropyLoss(**kwargs)

    def forward(self, student_io_dict, teacher_io_dict, targets):
        return self.criterion(student_io_dict["head"]["output"], targets)


CRITERIA = {"KDLoss": KDLoss, "HiddenMSE": HiddenMSE, "CrossEntropyLoss": HardLoss}


class WeightedSumLoss(nn.Module):
    def __init__(self, sub_terms):
        super().__init__()
        self.terms = nn.ModuleDict()
        self.factors = OrderedDict()
        for name, term in sub_terms.items():
            self.terms[name] = CRITERIA[term["criterion"]["key"]](**term["criterion"]["kwargs"])
            self.factors[name] = term["factor"]

    def forward(self, io_dict, targets):
        return sum(self.factors[name] * term(io_dict["student"], io_dict["teacher"], targets)
                   for name, term in self.terms.items())


def register_hooks(model, paths):
    io_dict, handles = {}, []
    named = dict(model.named_modules())

    def make(path):
        def hook(module, inputs, output):
            io_dict.setdefault(path, {})["output"] = output
        return hook

    for path, real in paths.items():
        handles.append(named[real].register_forward_hook(make(path)))
    return io_dict, handles


class DistillationBox:
    def __init__(self, teacher, student, config):
        self.teacher, self.student, self.config = teacher, student, config
        for p in self.teacher.parameters():
            p.requires_grad = False
        self.teacher_io, self.teacher_handles = register_hooks(
            teacher, {p: p for p in config["teacher"]["forward_hook"]["output"]})
        paths = {p: "model." + p for p in config["student"]["forward_hook"]["output"]}
        paths["auxiliary"] = "auxiliary"
        self.student_io, self.student_handles = register_hooks(student, paths)
        self.criterion = WeightedSumLoss(config["criterion"]["sub_terms"])
        self.optimizer = getattr(torch.optim, config["optimizer"]["key"])(student.parameters(), **config["optimizer"]["kwargs"])
        self.lr_scheduler = getattr(torch.optim.lr_scheduler, config["scheduler"]["key"])(
            self.optimizer, **config["scheduler"]["kwargs"])

    def pre_epoch_process(self):
        self.teacher.eval()
        self.student.train()

    def forward_process(self, sample_batch, targets):
        with torch.no_grad():
            self.teacher(sample_batch)
        self.student(sample_batch)
        return self.criterion({"student": self.student_io, "teacher": self.teacher_io}, targets)

    def post_forward_process(self, loss):
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()

    def post_epoch_process(self):
        self.lr_scheduler.step()

    def clean_modules(self):
        for handle in self.teacher_handles + self.student_handles:
            handle.remove()
        self.teacher_io.clear()
        self.student_io.clear()


@torch.inference_mode()
def evaluate(model, x, y):
    model.eval()
    return 100 * (model(x).argmax(1) == y).float().mean().item()


def train_teacher(model, x, y, epochs=12):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    model.train()
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).split(50):
            optimizer.zero_grad()
            F.cross_entropy(model(x[rows]), y[rows]).backward()
            optimizer.step()


def distill(teacher, student, x, y, config):
    box = DistillationBox(teacher, student, config)
    for epoch in range(config["num_epochs"]):
        box.pre_epoch_process()
        for rows in torch.randperm(len(x)).split(config["batch_size"]):
            loss = box.forward_process(x[rows], y[rows])
            box.post_forward_process(loss)
        box.post_epoch_process()
        print(f"epoch {epoch} last loss {loss.item():.4f}")
    box.clean_modules()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x, dtype=torch.float32) / 16, torch.tensor(y)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(9))
    train, test = p[:1300], p[1300:]

    t, s = CONFIG["models"]["teacher_model"], CONFIG["models"]["student_model"]
    teacher = MODELS[t["key"]](**t["kwargs"])
    train_teacher(teacher, x[train], y[train])
    print(f"teacher {evaluate(teacher, x[test], y[test]):.2f}")
    student = StudentWithAuxiliary(MODELS[s["key"]](**s["kwargs"]), CONFIG["train"]["student"]["auxiliary"])
    distill(teacher, student, x[train], y[train], CONFIG["train"])
    print(f"top1 {evaluate(student.model, x[test], y[test]):.2f}")


if __name__ == "__main__":
    main()
