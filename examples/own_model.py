"""Models of your own: any module, its features matched without a word about layers, its file exported."""

# %% [markdown]
# # Models of your own
# Teacher and student are plain modules. A loss on features finds where to read them, and connects their widths.

# %%
import tempfile
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import Subset, TensorDataset

import stillroom as sr

pixels, labels = (torch.tensor(each) for each in load_digits(return_X_y=True))
digits = TensorDataset(pixels.float().view(-1, 1, 8, 8) / 16, labels)
rest, few, test = (Subset(digits, range(*ends)) for ends in ((200, 1200), (0, 200), (1200, 1797)))


class Net(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.early = nn.Sequential(nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU())
        self.late = nn.Sequential(nn.Conv2d(width, 2 * width, 3, stride=2), nn.BatchNorm2d(2 * width), nn.ReLU())
        self.head = nn.Linear(2 * width, 10)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.late(self.early(x)).mean((2, 3)))
        return logits


# %%
torch.manual_seed(0)
folder = Path(tempfile.mkdtemp())
quiet = {"progress": False}
first = sr.distill(None, Net(16), rest, test, epochs=10, out=folder / "teacher", **quiet)
teacher = first.student
losses = ["cross_entropy", {"name": "feature_mse", "weight": 1.0}]
run = sr.distill(teacher, Net(8), few, test, losses, epochs=40, batch_size=25, out=folder / "student", **quiet)
print(f"top-1: teacher {first.summary['top1']:.0f}%, student {run.summary['top1']:.0f}%")

# %% [markdown]
# The run is a folder. It is opened again with the module it was made of, and says itself whether anything was wrong.
# %%
again = sr.load_run(folder / "student", student=Net(8), teacher=teacher, train=few, test=test)
x = torch.stack([test[i][0] for i in range(8)])
print("the same student:", torch.equal(again.student(x), run.student(x)))
print("to deploy:", Path(again.export("safetensors", folder / "student.safetensors")["path"]).name)
