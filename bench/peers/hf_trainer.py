"""Hugging Face's Trainer around timm's network, as its image classification guide has it.

https://huggingface.co/docs/transformers/tasks/image_classification: AdamW, linear schedule,
warm-up over a tenth of the steps. No checkpoint is saved, which spares it some time.
"""

import time

import common
import numpy as np
import torch
from torchvision import datasets, transforms
from transformers import (
    AutoModelForImageClassification,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)


class Report(TrainerCallback):
    """Report after each epoch's evaluation."""

    def __init__(self, images_per_epoch: int) -> None:
        self.images_per_epoch = images_per_epoch
        self.train_seconds = 0.0

    def on_epoch_begin(self, args, state, control, **kwargs) -> None:
        self.started = time.perf_counter()

    def on_epoch_end(self, args, state, control, **kwargs) -> None:
        self.train_seconds += time.perf_counter() - self.started

    def on_evaluate(self, args, state, control, metrics, **kwargs) -> None:
        common.report(
            images=round(state.epoch * self.images_per_epoch),
            train_seconds=self.train_seconds,
            val_accuracy=metrics["eval_accuracy"],
        )


def main() -> None:
    args = common.arguments()
    to_input = [transforms.ToTensor(), transforms.Normalize([0.5] * 3, [0.5] * 3)]
    train = datasets.ImageFolder(
        args.data / "train",
        transforms.Compose(
            [transforms.RandomResizedCrop(224), transforms.RandomHorizontalFlip(), *to_input]
        ),
    )
    val = datasets.ImageFolder(
        args.data / "val",
        transforms.Compose([transforms.Resize(256), transforms.CenterCrop(224), *to_input]),
    )
    model = AutoModelForImageClassification.from_pretrained(
        args.weights, num_labels=len(train.classes), ignore_mismatched_sizes=True
    )
    trainer = Trainer(
        model=model,
        args=TrainingArguments(
            output_dir=str(args.data / "hf"),
            learning_rate=args.lr,
            num_train_epochs=args.epochs,
            per_device_train_batch_size=args.batch_size,
            per_device_eval_batch_size=args.batch_size,
            warmup_steps=0.1,
            dataloader_num_workers=args.workers,
            eval_strategy="epoch",
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,
            seed=args.seed,
        ),
        train_dataset=train,
        eval_dataset=val,
        data_collator=_collate,
        compute_metrics=_accuracy,
        callbacks=[Report(len(train))],
    )
    trainer.train()
    common.finish()


def _collate(samples):
    return {
        "pixel_values": torch.stack([image for image, _ in samples]),
        "labels": torch.tensor([label for _, label in samples]),
    }


def _accuracy(predictions):
    logits, labels = predictions
    return {"accuracy": float((np.argmax(logits, axis=1) == labels).mean())}


if __name__ == "__main__":
    main()
