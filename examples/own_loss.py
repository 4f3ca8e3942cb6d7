"""A loss of your own: checked alone, mended, trained with."""

# %% [markdown]
# # A loss of your own
# Any function of student logits, teacher logits and labels is a loss. It can be checked before it costs a training.

# %%
import tempfile

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import stillroom as sr


def with_a_fault(student_logits: Tensor, teacher_logits: Tensor, labels: Tensor) -> Tensor:
    log_p, q = F.log_softmax(student_logits / 4, dim=1), F.softmax(teacher_logits / 4, dim=1)
    return 0.1 * F.cross_entropy(student_logits, labels) + 0.9 * F.kl_div(log_p, q, reduction="mean")


diagnosis = sr.check_loss(with_a_fault, num_classes=10)
print([finding.check for finding in diagnosis.problems])


# %% [markdown]
# The KL term is averaged over the classes and lacks τ²: it is 160 times too weak. Mended:
# %%
def mended(student_logits: Tensor, teacher_logits: Tensor, labels: Tensor) -> Tensor:
    log_p, q = F.log_softmax(student_logits / 4, dim=1), F.softmax(teacher_logits / 4, dim=1)
    return 0.1 * F.cross_entropy(student_logits, labels) + 0.9 * 16 * F.kl_div(log_p, q, reduction="batchmean")


print([finding.check for finding in sr.check_loss(mended, num_classes=10).problems])

# %% [markdown]
# In a test suite, `sr.check_loss(mended, num_classes=10).raise_for_problems()` keeps it so. A student learns with it:
# %%
pixels, labels = (torch.tensor(each) for each in load_digits(return_X_y=True))
digits = TensorDataset(pixels.float() / 16, labels)
rest, few, test = (torch.utils.data.Subset(digits, range(*ends)) for ends in ((200, 1200), (0, 200), (1200, 1797)))


def net(width: int) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10))


with tempfile.TemporaryDirectory() as folder:
    teacher = sr.distill(None, net(128), rest, test, epochs=10, out=f"{folder}/teacher", progress=False).student
    run = sr.distill(
        teacher, net(8), few, test, [mended], epochs=20, batch_size=25, out=f"{folder}/student", progress=False
    )
print(f"top-1: {run.summary['top1']:.0f}%")
