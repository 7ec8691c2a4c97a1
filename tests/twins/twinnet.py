import torch
from torch import nn
from torch.nn.functional import linear, normalize


class Cosine(nn.Module):
    def __init__(self, width, classes):
        super().__init__()
        self.prototypes = nn.Parameter(torch.randn(classes, width))

    def forward(self, x):
        return 10 * linear(normalize(x, dim=-1), normalize(self.prototypes, dim=-1))


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, 2, batch_first=True)
        self.mlp = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )

    def forward(self, x):
        y = self.norm(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        return x + self.mlp(x)


class TwinNet(nn.Module):
    def __init__(self, image_size=64, width=32, depth=4, dropout=0.0):
        super().__init__()
        self.patchify = nn.Conv2d(3, width, 8, stride=8)
        self.tokens = nn.Parameter(torch.randn(1, 2, width))
        self.position = nn.Parameter(torch.randn(1, 2 + (image_size // 8) ** 2, width))
        self.layers = nn.Sequential(*(Block(width) for _ in range(depth)))
        self.dropout = nn.Dropout(dropout)
        self.norm = nn.LayerNorm(width)
        self.student = Cosine(width, 1000)
        self.teacher = Cosine(width, 1000)

    def forward(self, images):
        patches = self.patchify(images).flatten(2).transpose(1, 2)
        x = torch.cat([self.tokens.expand(len(patches), -1, -1), patches], dim=1)
        x = self.layers(self.dropout(x + self.position))
        student, teacher = self.norm(x[:, :2]).unbind(dim=1)
        logits = self.student(student), self.teacher(teacher)
        return logits if self.training else (logits[0] + logits[1]) / 2
