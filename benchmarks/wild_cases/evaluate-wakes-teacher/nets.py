"""The networks."""
import torch.nn as nn


def conv_net(c, dropout=0.0):
    return nn.Sequential(
        nn.Conv2d(1, c, 3, padding=1), nn.BatchNorm2d(c), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout2d(dropout),
        nn.Conv2d(c, c, 3, padding=1), nn.BatchNorm2d(c), nn.ReLU(), nn.Flatten(),
        nn.Dropout(dropout), nn.Linear(16 * c, 10),
    )
