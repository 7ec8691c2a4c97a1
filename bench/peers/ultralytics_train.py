"""Ultralytics' classifier, for its speed alone: another network (YOLO11n-cls), random weights.

Optimizer and learning rate are those that it chooses by default.
"""

import os
import time

import common
from ultralytics import YOLO


def main() -> None:
    args = common.arguments()
    model = YOLO("yolo11n-cls.yaml")
    seen = {"images": 0, "train_seconds": 0.0, "started": 0.0}

    def begin(trainer) -> None:
        seen["started"] = time.perf_counter()

    def end(trainer) -> None:
        seen["train_seconds"] += time.perf_counter() - seen["started"]
        seen["images"] += len(trainer.train_loader.dataset)

    def validated(trainer) -> None:
        if seen["images"] == (trainer.epoch + 1) * len(trainer.train_loader.dataset):
            common.report(
                images=int(seen["images"]), train_seconds=seen["train_seconds"], val_accuracy=None
            )

    model.add_callback("on_train_epoch_start", begin)
    model.add_callback("on_train_epoch_end", end)
    model.add_callback("on_fit_epoch_end", validated)
    model.train(
        data=str(args.data),
        epochs=args.epochs,
        imgsz=224,
        batch=args.batch_size,
        workers=args.workers,
        seed=args.seed,
        pretrained=False,
        amp=False,
        plots=False,
        project=os.environ["YOLO_CONFIG_DIR"],
    )
    common.finish()


if __name__ == "__main__":
    main()
