"""Stands in for the siamese network of the PyTorch examples: one backbone run twice, a binary loss of pairs."""

import torch
import torch.nn as nn
import torch.optim as optim
from torch.optim.lr_scheduler import StepLR
from torch.utils.data import DataLoader, Dataset

torch.manual_seed(1)


class SiameseNetwork(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(
            nn.Conv2d(1, 8, 5, 2), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 16, 3, 2), nn.ReLU(), nn.Flatten()
        )
        self.fc = nn.Sequential(nn.Linear(2 * 16 * 16, 32), nn.ReLU(inplace=True), nn.Linear(32, 1))
        self.sigmoid = nn.Sigmoid()
        self.backbone.apply(self.init_weights)

    def init_weights(self, m):
        if isinstance(m, nn.Linear):
            torch.nn.init.xavier_uniform_(m.weight)
            m.bias.data.fill_(0.01)

    def forward(self, input1, input2):
        output = torch.cat((self.backbone(input1), self.backbone(input2)), 1)
        return self.sigmoid(self.fc(output))


class Matcher(Dataset):
    def __len__(self):
        return 256

    def __getitem__(self, index):
        g = torch.Generator().manual_seed(index)
        first, other = torch.rand(1, 21, 21, generator=g), torch.rand(1, 21, 21, generator=g)
        if index % 2 == 0:
            return first, first + 0.01 * other, torch.tensor(1, dtype=torch.float)
        return first, other, torch.tensor(0, dtype=torch.float)


model = SiameseNetwork()
optimizer = optim.Adadelta(model.parameters(), lr=1.0)
scheduler = StepLR(optimizer, step_size=1, gamma=0.7)
criterion = nn.BCELoss()
for epoch in range(1, 4):
    model.train()
    for images_1, images_2, targets in DataLoader(Matcher(), 16, shuffle=True):
        optimizer.zero_grad()
        outputs = model(images_1, images_2).squeeze()
        loss = criterion(outputs, targets)
        loss.backward()
        optimizer.step()
    print(epoch, loss.item())
    model.eval()
    with torch.no_grad():
        for images_1, images_2, targets in DataLoader(Matcher(), 64):
            pred = torch.where(model(images_1, images_2).squeeze() > 0.5, 1, 0)
    scheduler.step()
