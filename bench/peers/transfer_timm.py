"""A recipe of timm's parts for bench/transfer.py, in a loop such as its training script's.

AdamW with layer decay, cosine schedule with warm-up, mixup or cutmix for half of the batches, label
smoothing, timm's augmentation, a moving average of the weights whose decay warms up, channels last.
The average and the weights themselves are both validated; an epoch is what is better.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import timm
import torch
from timm.data import Mixup, create_transform
from timm.loss import SoftTargetCrossEntropy
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.utils import ModelEmaV3, random_seed
from torchvision import datasets

if TYPE_CHECKING:
    from transfer import Job, Predict, Watch

NORMALIZE = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}


def train(job: Job, watch: Watch) -> Predict:
    """Fine-tune, report each epoch to `watch`; return the function that predicts test images."""
    random_seed(job.seed)
    augment = create_transform(
        job.image_size, is_training=True, scale=(0.25, 1.0), interpolation="random", **NORMALIZE
    )
    loader = torch.utils.data.DataLoader(
        datasets.ImageFolder(job.data / "train", augment),
        batch_size=job.batch_size,
        shuffle=True,
        drop_last=True,
    )
    val = _plain(job, "val")
    classes = len(job.classes)
    model = timm.create_model(f"local-dir:{job.weights}", pretrained=True)
    # With num_classes of create_model the head would start with weights of 1 / sqrt(classes).
    model.reset_classifier(classes)
    model = model.to(memory_format=torch.channels_last)
    optimizer = create_optimizer_v2(
        model, opt="adamw", lr=job.lr, weight_decay=0.05, layer_decay=0.75
    )
    scheduler, _ = create_scheduler_v2(
        optimizer,
        sched="cosine",
        num_epochs=job.epochs,
        warmup_epochs=1,
        warmup_lr=job.lr / 100,
        step_on_epochs=False,
        updates_per_epoch=len(loader),
    )
    mixup = Mixup(
        mixup_alpha=0.1, cutmix_alpha=1.0, prob=0.5, label_smoothing=0.1, num_classes=classes
    )
    average = ModelEmaV3(model, decay=0.9998, use_warmup=True)
    loss_of = SoftTargetCrossEntropy()
    step = 0
    for _ in range(job.epochs):
        model.train()
        for images, labels in loader:
            images, targets = mixup(images.contiguous(memory_format=torch.channels_last), labels)
            loss = loss_of(model(images), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            step += 1
            average.update(model, step=step)
            scheduler.step_update(num_updates=step)
        watch.epoch_of(
            [
                (_probabilities(candidate, val), candidate.state_dict())
                for candidate in (model, average.module)
            ],
            np.array(val.dataset.targets),
        )

    def predict(state) -> np.ndarray:
        model.load_state_dict(state)
        return _probabilities(model, _plain(job, "test"))

    return predict


def _plain(job: Job, split: str) -> torch.utils.data.DataLoader:
    transform = create_transform(
        job.image_size, interpolation="bicubic", crop_pct=224 / 256, **NORMALIZE
    )
    dataset = datasets.ImageFolder(job.data / split, transform)
    return torch.utils.data.DataLoader(dataset, batch_size=job.batch_size)


@torch.inference_mode()
def _probabilities(model: torch.nn.Module, loader: torch.utils.data.DataLoader) -> np.ndarray:
    model.eval()
    batches = (images.contiguous(memory_format=torch.channels_last) for images, _ in loader)
    return np.concatenate([model(images).double().softmax(1).numpy() for images in batches])
