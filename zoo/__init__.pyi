from . import allocator, events, export, hub, ray, serve, testing, weights
from .backbone import Backbone, Head, LeftOut, Option, Preprocess, Weights
from .cli.console import TrainingConsole
from .data.check import check_data
from .data.issue import Issue
from .data.sample import Sample
from .data.sources import Part
from .data.transforms import albumentations
from .errors import Stopped, ZooError
from .exporter import Exporter
from .hookspecs import Factory, hookimpl
from .integrity import verify
from .integrity.finding import Finding
from .models.build import build
from .models.groups import parameter_groups
from .pipeline.compare import Comparison, RunComparison, compare
from .pipeline.finetune import finetune, resume
from .pipeline.lr_find import RangeTest, lr_find
from .pipeline.own_loop import datasets, save_run, transforms
from .pipeline.tune import tune
from .planning import Plan
from .plugins import backbones
from .recipe import Recipe
from .report.again import write_report
from .runs.read import Prediction, Run, load
from .runs.search import Search, Trial
from .runs.transfer import Transfer

__all__ = [
    "Backbone",
    "Comparison",
    "Exporter",
    "Factory",
    "Finding",
    "Head",
    "Issue",
    "LeftOut",
    "Option",
    "Part",
    "Plan",
    "Prediction",
    "Preprocess",
    "RangeTest",
    "Recipe",
    "Run",
    "RunComparison",
    "Sample",
    "Search",
    "Stopped",
    "TrainingConsole",
    "Transfer",
    "Trial",
    "Weights",
    "ZooError",
    "albumentations",
    "allocator",
    "backbones",
    "build",
    "check_data",
    "compare",
    "datasets",
    "events",
    "export",
    "finetune",
    "hookimpl",
    "hub",
    "load",
    "lr_find",
    "parameter_groups",
    "ray",
    "resume",
    "save_run",
    "serve",
    "testing",
    "transforms",
    "tune",
    "verify",
    "weights",
    "write_report",
]
