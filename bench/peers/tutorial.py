"""The loop of PyTorch's transfer-learning tutorial: all of the network trains, SGD, step schedule.

https://pytorch.org/tutorials/beginner/transfer_learning_tutorial.html, with our network for
resnet18. Its best model is not saved to disk, which spares it some time.
"""

import time

import common
import timm
import torch
from torch import nn
from torchvision import datasets, transforms


def main() -> None:
    args = common.arguments()
    torch.manual_seed(args.seed)
    device = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    normalize = transforms.Normalize([0.5] * 3, [0.5] * 3)
    data_transforms = {
        "train": transforms.Compose(
            [
                transforms.RandomResizedCrop(224),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                normalize,
            ]
        ),
        "val": transforms.Compose(
            [
                transforms.Resize(256),
                transforms.CenterCrop(224),
                transforms.ToTensor(),
                normalize,
            ]
        ),
    }
    image_datasets = {
        split: datasets.ImageFolder(args.data / split, data_transforms[split])
        for split in ("train", "val")
    }
    loaders = {
        split: torch.utils.data.DataLoader(
            image_datasets[split],
            batch_size=args.batch_size,
            shuffle=True,
            num_workers=args.workers,
        )
        for split in ("train", "val")
    }

    model = timm.create_model(f"local-dir:{args.weights}", pretrained=True)
    classes = image_datasets["train"].classes
    model.classifier = nn.Linear(model.classifier.in_features, len(classes))
    model = model.to(device)
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=args.lr, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=7, gamma=0.1)

    images, train_seconds = 0, 0.0
    for _ in range(args.epochs):
        started = time.perf_counter()
        model.train()
        for inputs, labels in loaders["train"]:
            inputs, labels = inputs.to(device), labels.to(device)
            optimizer.zero_grad()
            loss = criterion(model(inputs), labels)
            loss.backward()
            optimizer.step()
            images += len(inputs)
            loss.item()  # The tutorial adds it up.
        scheduler.step()
        train_seconds += time.perf_counter() - started

        model.eval()
        right = 0
        with torch.no_grad():
            for inputs, labels in loaders["val"]:
                predicted = model(inputs.to(device)).argmax(1)
                right += int((predicted == labels.to(device)).sum())
        common.report(
            images=images,
            train_seconds=train_seconds,
            val_accuracy=right / len(image_datasets["val"]),
        )
    common.finish()


if __name__ == "__main__":
    main()
