"""Audit a classifier that sparring did not train: any nn.Module from images in [0, 1] to logits."""

import torch
from torch import nn

import sparring

train, test = sparring.data.load("digits")
torch.manual_seed(0)
model = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
optimizer = torch.optim.Adam(model.parameters(), 1e-2)
for _ in range(200):
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(train.floats()), train.labels).backward()
    optimizer.step()

result = sparring.audit(model.eval(), test, eps=0.05, train=train)
print(result)
raise SystemExit(result.exit_code)
