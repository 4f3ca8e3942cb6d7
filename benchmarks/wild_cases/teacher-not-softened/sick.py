# ---- Knowledge distillation homework, exported from the notebook ----
import argparse
import time

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn import datasets
from torch.utils.data import DataLoader, TensorDataset, random_split


# In[2]: data
def load_data():
    digits = datasets.load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16.0
    images = (images - 0.5) / 0.5
    labels = torch.tensor(digits.target, dtype=torch.long)
    full = TensorDataset(images, labels)
    return random_split(full, [1200, 597], generator=torch.Generator().manual_seed(1))


# In[3]: models
class DeepNN(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(),
            nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        )
        self.classifier = nn.Sequential(nn.Linear(32 * 16, 64), nn.ReLU(), nn.Dropout(0.1), nn.Linear(64, 10))

    def forward(self, x):
        return self.classifier(torch.flatten(self.features(x), 1))


class LightNN(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
        self.classifier = nn.Sequential(nn.Linear(4 * 16, 24), nn.ReLU(), nn.Linear(24, 10))

    def forward(self, x):
        return self.classifier(torch.flatten(self.features(x), 1))


# In[4]: ordinary training
def train(model, train_loader, epochs, learning_rate):
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate)
    model.train()
    for _ in range(epochs):
        for inputs, labels in train_loader:
            optimizer.zero_grad()
            loss = F.cross_entropy(model(inputs), labels)
            loss.backward()
            optimizer.step()


def test(model, test_loader):
    model.eval()
    correct, total = 0, 0
    with torch.no_grad():
        for inputs, labels in test_loader:
            _, predicted = torch.max(model(inputs), 1)
            total += labels.size(0)
            correct += (predicted == labels).sum().item()
    return 100 * correct / total


# In[5]: distillation
def distillation_loss(student_logits, teacher_logits, T):
    soft_targets = F.softmax(teacher_logits, dim=-1)
    soft_prob = F.log_softmax(student_logits / T, dim=-1)
    return F.kl_div(soft_prob, soft_targets, reduction="sum") / soft_prob.size(0) * (T ** 2)


def train_knowledge_distillation(teacher, student, train_loader, epochs, learning_rate, T,
                                 soft_target_loss_weight, ce_loss_weight):
    ce_loss = nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(student.parameters(), lr=learning_rate)
    teacher.eval()
    student.train()
    for epoch in range(epochs):
        running_loss = 0.0
        for inputs, labels in train_loader:
            optimizer.zero_grad()
            with torch.no_grad():
                teacher_logits = teacher(inputs)
            student_logits = student(inputs)
            soft_targets_loss = distillation_loss(student_logits, teacher_logits, T)
            label_loss = ce_loss(student_logits, labels)
            loss = soft_target_loss_weight * soft_targets_loss + ce_loss_weight * label_loss
            loss.backward()
            optimizer.step()
            running_loss += loss.item()
        if epoch % 5 == 0:
            print(f"Epoch {epoch + 1}/{epochs}, Loss: {running_loss / len(train_loader):.4f}")


# In[6]: run
if __name__ == "__main__":
    cli = argparse.ArgumentParser()
    cli.add_argument("--seed", type=int, default=0)
    opt = cli.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(opt.seed)
    train_set, test_set = load_data()
    train_loader = DataLoader(train_set, batch_size=50, shuffle=True)
    test_loader = DataLoader(test_set, batch_size=200, shuffle=False)
    start = time.time()
    nn_deep = DeepNN()
    train(nn_deep, train_loader, epochs=12, learning_rate=2e-3)
    print(f"teacher {test(nn_deep, test_loader):.2f}")
    nn_light = LightNN()
    train_knowledge_distillation(nn_deep, nn_light, train_loader, epochs=16, learning_rate=2e-3, T=4,
                                 soft_target_loss_weight=0.75, ce_loss_weight=0.25)
    print(f"took {time.time() - start:.1f}s")
    print(f"top1 {test(nn_light, test_loader):.2f}")
