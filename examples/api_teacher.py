"""A teacher that is not a PyTorch model: scikit-learn's SVM teaches by stored answers, as an API would."""

# %% [markdown]
# # A teacher behind an API
# The teacher never runs here. `export-inputs` writes what the student will be shown; the teacher's answers go into the
# same folder; the recipe names the folder. The two calls of `stillroom` are those of the command line.

# %%
import json
import tempfile
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits
from sklearn.svm import SVC

from stillroom.cli import run as stillroom

folder = Path(tempfile.mkdtemp())
recipe, inputs = folder / "recipe.yaml", folder / "inputs"
recipe.write_text(f"""
data: {{source: digits, train_limit: 300}}
teacher: {{name: svm, logits: {inputs}}}
student: {{name: mlp}}
losses: [{{name: cross_entropy, weight: 0.1}}, {{name: kl, weight: 0.9, temperature: 4}}]
training: {{epochs: 10}}
""")
stillroom(["export-inputs", str(recipe), "--out", str(inputs)])

# %% [markdown]
# The "API": it sees the images, and answers with probabilities. Their logarithms serve as logits.

# %%
train_images, test_images = np.load(inputs / "train-images.npy"), np.load(inputs / "test-images.npy")
print("to be answered:", train_images.shape, test_images.shape)


def as_rows(images: np.ndarray) -> np.ndarray:
    return images.reshape(len(images), -1).astype(np.float32) / 255


pixels, labels = load_digits(return_X_y=True)
tested = {row.tobytes() for row in np.rint(as_rows(test_images) * 16)}
seen = [row.astype(np.float32).tobytes() not in tested for row in pixels]
api = SVC(probability=True, random_state=0).fit(pixels[seen] / 16, labels[seen])
order = [
    list(api.classes_).index(int(name)) for name in json.loads((inputs / "inputs.json").read_text())["class_names"]
]


def answer(images: np.ndarray) -> np.ndarray:
    return np.log(api.predict_proba(as_rows(images))[:, order] + 1e-6).astype(np.float32)


np.save(inputs / "train-logits.npy", np.stack([answer(view) for view in train_images]))
np.save(inputs / "test-logits.npy", answer(test_images))

# %% [markdown]
# The student learns from the answers; a summary is in its folder.
# %%
stillroom(["distill", str(recipe), "--out", str(folder / "run")])
summary = json.loads((folder / "run" / "summary.json").read_text())
print(f"teacher {summary['teachers']['teacher']['top1']:.0f}%, student {summary['top1']:.0f}%")
