"""Hugging Face's Trainer for bench/transfer.py, as its image classification guide has it.

AdamW, linear schedule, warm-up over a tenth of the steps, random crops and flips, as in
hf_trainer.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.special import softmax
from torchvision import datasets, transforms
from transformers import (
    AutoModelForImageClassification,
    PrinterCallback,
    Trainer,
    TrainingArguments,
    set_seed,
)
from transformers.utils import logging

if TYPE_CHECKING:
    from transfer import Job, Predict, Watch

logging.set_verbosity_error()
logging.disable_progress_bar()


def train(job: Job, watch: Watch) -> Predict:
    """Fine-tune, report each epoch to `watch`; return the function that predicts test images."""
    set_seed(job.seed)
    size = job.image_size
    to_input = [transforms.ToTensor(), transforms.Normalize([0.5] * 3, [0.5] * 3)]
    augment = transforms.Compose(
        [transforms.RandomResizedCrop(size), transforms.RandomHorizontalFlip(), *to_input]
    )
    plain = transforms.Compose(
        [transforms.Resize(size * 256 // 224), transforms.CenterCrop(size), *to_input]
    )
    model = AutoModelForImageClassification.from_pretrained(
        job.weights, num_labels=len(job.classes), ignore_mismatched_sizes=True
    )

    def tell(predictions) -> dict[str, float]:
        logits, labels = predictions
        watch.epoch(softmax(logits.astype(float), axis=1), labels, model.state_dict())
        return {}

    trainer = Trainer(
        model=model,
        args=TrainingArguments(
            output_dir=str(job.scratch / "hf"),
            learning_rate=job.lr,
            num_train_epochs=job.epochs,
            per_device_train_batch_size=job.batch_size,
            per_device_eval_batch_size=job.batch_size,
            warmup_steps=0.1,
            dataloader_num_workers=0,
            eval_strategy="epoch",
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
            seed=job.seed,
        ),
        train_dataset=datasets.ImageFolder(job.data / "train", augment),
        eval_dataset=datasets.ImageFolder(job.data / "val", plain),
        data_collator=_collate,
        compute_metrics=tell,
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    test = datasets.ImageFolder(job.data / "test", plain)

    def predict(state) -> np.ndarray:
        model.load_state_dict(state)
        trainer.compute_metrics = None
        return softmax(trainer.predict(test).predictions.astype(float), axis=1)

    return predict


def _collate(samples):
    return {
        "pixel_values": torch.stack([image for image, _ in samples]),
        "labels": torch.tensor([label for _, label in samples]),
    }
