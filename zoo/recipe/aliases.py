"""What settings are called in timm's train.py, the HF Trainer, fastai, Keras and elsewhere."""

from __future__ import annotations

from collections.abc import Collection

#: Other names of fields of the recipe, by field. They are understood, and answered; not accepted.
_NAMES = {
    "augment": "aa aug augmentation auto_augment",
    "backbone": "arch architecture model model_name model_name_or_path",
    "backbone_options": "model_kwargs",
    "batch_size": "b batch bs per_device_train_batch_size train_batch_size",
    "class_weights": "class_weight",
    "clip_grad": "clipnorm grad_clip gradient_clip_val max_grad_norm",
    "cutmix": "cutmix_alpha",
    "data": "data_dir data_path dataset dataset_name train_dir train_folder",
    "device": "gpu gpus",
    "ema_decay": "model_ema_decay",
    "distill_temperature": "distillation_tau distillation_temperature kd_temperature",
    "distill_weight": "distillation_alpha distillation_weight kd_alpha kd_weight",
    "epochs": "epoch n_epochs n_epoch num_epochs num_train_epochs",
    "folds": "cv k_folds n_splits",
    "global_batch": "global_batch_size total_batch_size",
    "grad_accumulation": "accumulate_grad_batches grad_accum grad_accum_steps "
    "gradient_accumulation_steps",
    "image_size": "image_height img_size imgsz input_size",
    "label_smoothing": "label_smoothing_factor smoothing",
    "layer_decay": "layerwise_lr_decay llrd",
    "lora_rank": "lora_r",
    "loss": "criterion loss_fn loss_func loss_function",
    "lr": "backbone_lr base_lr learning_rate lr_backbone lr_max",
    "metric": "eval_metric metric_for_best_model monitor",
    "mixup": "mixup_alpha",
    "optimizer": "opt optim optimizer_name",
    "patience": "early_stopping early_stopping_patience",
    "random_erasing": "random_erase reprob",
    "repeated_augmentation": "aug_repeats ra_sampler",
    "schedule": "lr_scheduler lr_scheduler_type sched scheduler",
    "seed": "manual_seed random_seed",
    "steps": "max_steps max_iter num_steps num_train_steps total_steps",
    "teacher": "kd_model_name teacher_model teacher_path",
    "unlabelled": "unlabeled unlabeled_dir unlabelled_dir",
    "val": "val_dir valid valid_dir validation_dir validation_folder",
    "val_split": "test_size val_ratio valid_pct validation_split",
    "warmup_epochs": "warmup warm_up",
    "weight_decay": "wd weight_decay_rate",
    "weights": "checkpoint checkpoint_path ckpt initial_checkpoint",
    "workers": "dataloader_num_workers j num_workers",
}

_FIELDS = {name: field for field, names in _NAMES.items() for name in names.split()}

_DROP = "it is an option of the network: `backbone_options`, such as drop_path_rate=0.1"
_MIXED = "mixed precision is `precision=bf16` or `precision=fp16`; auto uses it where it is fast"
_LOG = "use `logger`, such as `logger=tensorboard`"
_OUT = "the run folder is `out`"
_AVERAGED = "give a number of epochs, such as `average_epochs=3`"
_OPTION = "it is an option of the optimizer: `optimizer_options`, such as eps=1e-6"

#: What is no field by another name, and what to do instead.
_ADVICE = {
    "amp": _MIXED,
    "beta1": _OPTION,
    "betas": _OPTION,
    "bf16": _MIXED,
    "drop": _DROP,
    "drop_path": _DROP,
    "drop_path_rate": _DROP,
    "drop_rate": _DROP,
    "dropout": _DROP,
    "ema": "give the decay, such as `ema_decay=0.999`",
    "eps": _OPTION,
    "fp16": _MIXED,
    "freeze_backbone": "use `freeze=backbone`",
    "freeze_epochs": "use `freeze` and `unfreeze_epoch`",
    "head_lr": "give it as a multiple of `lr`: `head_lr_mult`",
    "linear_probe": "use `train=probe`",
    "log": _LOG,
    "log_wandb": _LOG,
    "loggers": _LOG,
    "lr_head": "give it as a multiple of `lr`: `head_lr_mult`",
    "model_ema": "give the decay, such as `ema_decay=0.999`",
    "nesterov": "it is an optimizer: `optimizer=nesterov`, SGD with Nesterov momentum",
    "no_pretrained": "use `weights=none`",
    "num_classes": "classes are counted in the data; leave it out",
    "opt_betas": _OPTION,
    "opt_eps": _OPTION,
    "out_dir": _OUT,
    "output": _OUT,
    "output_dir": _OUT,
    "pretrained": "leave it out: pretrained weights are the default, and `weights=none` is without",
    "report_to": _LOG,
    "resume_from_checkpoint": "use `resume` with the run folder",
    "save_dir": _OUT,
    "swa": _AVERAGED,
    "swa_epoch_start": _AVERAGED,
    "swa_start": _AVERAGED,
    "warmup_lr": "give it as a fraction of `lr`: `warmup_start`",
    "warmup_ratio": "give it in epochs: `warmup_epochs`, this ratio times `epochs`",
}


def meant(name: str, fields: Collection[str]) -> str | None:
    """Return what to use instead of a setting that zoo does not have by this name; None: unknown.

    Returns:
        A clause that names zoo's settings as recipes do, in backquotes.
    """
    key = name.strip("-").replace("-", "_").lower()
    field = key if key in fields else _FIELDS.get(key)
    return f"zoo calls it `{field}`" if field is not None else _ADVICE.get(key)
