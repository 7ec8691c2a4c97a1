"""Devices and multiple processes through accelerate, with decisions shared by all processes."""

from __future__ import annotations

import functools
import itertools
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import (
    DataLoaderConfiguration,
    DistributedDataParallelKwargs,
    GradientAccumulationPlugin,
    InitProcessGroupKwargs,
    TorchDynamoPlugin,
)
from torch import Tensor
from torch.distributed.rendezvous import rendezvous

from zoo import errors
from zoo.errors import TrainingError, ZooError

T = TypeVar("T")

#: How long a process waits for another one between steps, such as for the first one of a machine to
#: scan and decode all images. One that has ended closes its connections, so this is not the limit
#: for noticing it.
_PATIENCE = timedelta(days=7)

#: How long it waits within a step, unless the recipe has another limit: the default of NCCL.
_STEP_PATIENCE = timedelta(minutes=10)

#: Numbers the exchanges through the store, because each needs its own keys.
_TURNS = itertools.count()

#: Variables with which `accelerate launch` selects other training engines, and their names.
_ENGINES = {
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_FSDP": "fully sharded data parallelism (FSDP)",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "tensor, context or sequence parallelism",
}

#: Variables of accelerate that affect how it runs and logs, but not what it computes.
_HARMLESS = frozenset({"ACCELERATE_CPU_AFFINITY", "ACCELERATE_DEBUG_MODE", "ACCELERATE_LOG_LEVEL"})

#: Variables that select kernels or their precision, so that results differ in the last bits or,
#: with reduced precision instead of float32, in more.
_NUMERIC = (
    "ATEN_CPU_CAPABILITY",
    "CUBLASLT_WORKSPACE_SIZE",
    "CUBLAS_WORKSPACE_CONFIG",
    "CUDNN_CONV_WSCAP_DBG",
    "DISABLE_ADDMM_CUDA_LT",
    "DNNL_DEFAULT_FPMATH_MODE",
    "DNNL_MAX_CPU_ISA",
    "KMP_DETERMINISTIC_REDUCTION",
    "MKL_CBWR",
    "MKL_ENABLE_INSTRUCTIONS",
    "NCCL_ALGO",
    "NCCL_BUFFSIZE",
    "NCCL_MAX_NCHANNELS",
    "NCCL_MIN_NCHANNELS",
    "NCCL_NVLS_ENABLE",
    "NCCL_PROTO",
    "NVIDIA_TF32_OVERRIDE",
    "ONEDNN_DEFAULT_FPMATH_MODE",
    "ONEDNN_MAX_CPU_ISA",
    "OPENBLAS_CORETYPE",
    "PYTORCH_ENABLE_MPS_FALLBACK",
    "PYTORCH_MPS_FAST_MATH",
    "PYTORCH_MPS_PREFER_METAL",
    "PYTORCH_TUNABLEOP_ENABLED",
    "PYTORCH_TUNABLEOP_TUNING",
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE",
    "TORCH_BLAS_PREFER_CUBLASLT",
    "TORCH_CUDNN_USE_HEURISTIC_MODE_B",
    "TORCH_CUDNN_V8_API_DISABLED",
)


def decide_on_main(accelerator: Accelerator, decide: Callable[[], T]) -> T:
    """Call `decide` in the main process; return its result, or raise its ZooError, in all."""
    decided: T | ZooError | None = None
    if accelerator.is_main_process:
        try:
            decided = decide()
        except ZooError as error:
            decided = error
    shared: list[Any] = [decided]
    if accelerator.num_processes > 1:
        dist.broadcast_object_list(shared, group=_patient())
    if isinstance(shared[0], ZooError):
        shared[0].shared = accelerator.num_processes > 1
        raise shared[0]
    return cast(T, shared[0])


def decide_early(decide: Callable[[], T]) -> T:
    """Like `decide_on_main`, for JSON-serialisable results, also before there is an accelerator."""
    decided: T | None = None
    failure: ZooError | None = None
    if is_main():
        try:
            decided = decide()
        except ZooError as error:
            failure = error
    everywhere = exchange((decided, _shareable(failure)))
    if len(everywhere) == 1 and failure is not None:
        raise failure
    decided, reported = everywhere[0]
    if reported is not None:
        raise _shared(*reported) from failure
    return cast(T, decided)


def exchange(value: T) -> list[T]:
    """Return the values of all processes, by rank; every process must call this.

    Before there is an accelerator, values must be JSON-serialisable.
    """
    if dist.is_available() and dist.is_initialized():
        values: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(values, value, group=_patient())
        return values
    launched = _launched()
    if launched is None:
        return [value]
    store, rank, processes = launched
    turn = next(_TURNS)
    keys = [f"zoo/{_attempt()}/{turn}/{each}" for each in range(processes)]
    store.set(keys[rank], json.dumps(value))
    store.wait(keys, _PATIENCE)
    return [json.loads(store.get(key)) for key in keys]


def is_main() -> bool:
    """Return whether this is the first or only process; works before there is an accelerator."""
    return rank_and_count()[0] == 0


def rank_and_count() -> tuple[int, int]:
    """Return this process' rank and the number of all; works before there is an accelerator."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    launched = _launched()
    return (0, 1) if launched is None else launched[1:]


def together(do: Callable[[], T]) -> T:
    """Return the result of `do` in this process; a ZooError in any process is raised in all.

    Otherwise the other processes would wait for one that has ended.
    """
    done: T | None = None
    failure: ZooError | None = None
    try:
        done = do()
    except ZooError as error:
        failure = error
    everywhere = exchange(_shareable(failure))
    if len(everywhere) == 1 and failure is not None:
        raise failure
    failed = {str(rank): each for rank, each in enumerate(everywhere) if each is not None}
    if not failed:
        return cast(T, done)
    kind = next(iter(failed.values()))[0]
    ranks_of: dict[str, list[str]] = {}
    for rank, (_, text, _) in failed.items():
        ranks_of.setdefault(text, []).append(rank)
    hints = dict.fromkeys(hint for *_, hint in failed.values() if hint is not None)
    text = "\n".join(
        text
        if len(ranks) == len(everywhere)
        else f"process {', '.join(ranks)} of {len(everywhere)}: {text}"
        for text, ranks in ranks_of.items()
    )
    raise _shared(kind, text, "; ".join(hints) or None) from failure


def local_main_first(do: Callable[[], T]) -> T:
    """Like `together`, but one process of each machine does it before the others begin.

    These then find what it has cached. Works before there is an accelerator.
    """
    done: T | None = None
    failure: ZooError | None = None
    first = int(os.environ.get("LOCAL_RANK", 0)) <= 0
    if first:
        try:
            done = do()
        except ZooError as error:
            failure = error
    exchange(None)

    def rest() -> T:
        if failure is not None:
            raise failure
        return cast(T, done) if first else do()

    return together(rest)


def in_any(flag: bool) -> bool:
    """Return whether the flag is True in any process, without synchronising GPUs."""
    raised = torch.tensor(int(flag))
    dist.all_reduce(raised, dist.ReduceOp.MAX, group=_patient())
    return bool(raised)


def is_disconnected(error: RuntimeError) -> bool:
    """Return whether an error of torch says that another process has ended or can't be reached."""
    return isinstance(error, dist.DistError) or "gloo/transport" in str(error)


def report_once(report: Callable[[], None]) -> None:
    """Report an error of all processes in the main one, before the launcher stops any of them."""
    if is_main():
        report()
    exchange(None)


@functools.cache
def _launched() -> tuple[Any, int, int] | None:
    """Return the launcher's store, this process' rank and their number; None if there is only one.

    Collectives would need a device, which a resumed run reads from its checkpoint.
    """
    if int(os.environ.get("LOCAL_RANK", -1)) < 0 or int(os.environ.get("WORLD_SIZE", 1)) < 2:
        return None
    if not _on_one_machine() and _shares_store() and _number("TORCHELASTIC_MAX_RESTARTS"):
        raise TrainingError(
            "torchrun would give restarted processes of several machines the store of the attempt "
            "before, with its contents",
            hint="set TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 on all machines",
        )
    store, rank, processes = next(rendezvous("env://"))
    return store, rank, processes


def _attempt() -> int:
    """Return how often torchrun has restarted the processes, which may then share a store.

    Launchers of several machines may count differently, but their store is always new.
    """
    return _number("TORCHELASTIC_RESTART_COUNT") if _on_one_machine() else 0


def _on_one_machine() -> bool:
    return _number("LOCAL_WORLD_SIZE") == _number("WORLD_SIZE")


def _shares_store() -> bool:
    return os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"


def _number(name: str) -> int:
    return int(os.environ.get(name, 0))


def join_processes() -> None:
    """Connect the processes of a launcher without an accelerator, to exchange tensors."""
    if _launched() is not None and not dist.is_initialized():
        dist.init_process_group("gloo", timeout=_PATIENCE)


def rows_on_main(rows: Tensor, positions_of: Callable[[int], Sequence[int]]) -> Tensor | None:
    """Return the rows of all processes in the main one, in order; None in the others.

    Only the main process needs memory for all of them.

    Args:
        rows: (n, ...) float32 on the CPU, of this process; without rows, the other dimensions do
            not matter.
        positions_of: Maps a rank to the positions of its rows among all.
    """
    rank, processes = rank_and_count()
    if processes == 1:
        return rows
    shapes = exchange(tuple(rows.shape[1:]) if len(rows) else None)
    shape = next((each for each in shapes if each is not None), (0,))
    if rank > 0:
        if len(rows):
            dist.send(rows.contiguous(), 0, group=_patient())
        return None
    shares = [positions_of(each) for each in range(processes)]
    found = torch.empty(sum(map(len, shares)), *shape)
    for each, positions in enumerate(shares):
        if not len(positions):
            continue
        part = rows
        if each > 0:
            part = torch.empty(len(positions), *shape)
            dist.recv(part, each, group=_patient())
        found[list(positions)] = part
    return found


@functools.cache
def _patient() -> Any:  # torch's type declaration includes a number
    """Return a group of all processes that waits for long, and needs no GPU."""
    return dist.new_group(backend="gloo", timeout=_PATIENCE)


def _shareable(error: ZooError | None) -> tuple[str, str, str | None] | None:
    """Return what other processes need to know of an error: class in zoo.errors, text, hint."""
    if error is None:
        return None
    kind = next(each for each in type(error).__mro__ if each.__module__ == errors.__name__)
    return kind.__name__, error.text, error.hint


def _shared(kind: str, text: str, hint: str | None) -> ZooError:
    error: ZooError = getattr(errors, kind)(text, hint=hint)
    error.shared = True
    return error


def agree(accelerator: Accelerator, *flags: bool | torch.Tensor) -> list[bool]:
    """Return for each flag whether it is True in any process."""
    if accelerator.num_processes == 1:
        return [bool(flag) for flag in flags]
    raised = torch.tensor([float(flag) for flag in flags], device=accelerator.device)
    return [up > 0 for up in accelerator.reduce(raised, reduction="sum").tolist()]


def of_each(accelerator: Accelerator, value: int | None) -> list[int | None]:
    """Return the values of all processes, by rank; an empty list if there is only one process.

    Args:
        accelerator: The accelerator of all processes; each of them must call this.
        value: Value of this process, above 0; or None.
    """
    if accelerator.num_processes == 1:
        return []
    mine = torch.tensor([value or 0], device=accelerator.device)
    return [each or None for each in accelerator.gather(mine).tolist()]


def make_accelerator(
    device: torch.device,
    precision: str,
    *,
    deterministic: bool = False,
    patience: timedelta = _STEP_PATIENCE,
) -> Accelerator:
    """Create the accelerator, which places models and batches on a device.

    Environment variables do not affect what it computes.

    Args:
        device: The device to compute on.
        precision: `fp32`, `bf16` or `fp16`.
        deterministic: Call `torch.use_deterministic_algorithms`, for the whole process, unless the
            device is a CPU: an operation without a deterministic variant raises a RuntimeError.
        patience: How long a process waits for the others within a training step.

    Raises:
        TrainingError: If the environment selects an unsupported engine or another device type.
    """
    if deterministic and device.type != "cpu":
        torch.use_deterministic_algorithms(True)
        # cuBLAS requires it before its first use.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    _refuse_engines()
    options = {
        "cpu": device.type == "cpu",
        "mixed_precision": "no" if precision == "fp32" else precision,
        "gradient_accumulation_plugin": GradientAccumulationPlugin(num_steps=1),
        "dynamo_plugin": TorchDynamoPlugin(
            backend="no", mode="default", fullgraph=False, use_regional_compilation=False
        ),
        # A GPU continues to compute while the next batch is copied from pinned memory.
        "dataloader_config": DataLoaderConfiguration(non_blocking=True),
        "kwargs_handlers": [InitProcessGroupKwargs(timeout=patience)],
    }
    with _without_settings():
        # The state of an earlier accelerator persists: it refuses another precision, and would
        # silently go on with its own device.
        try:
            accelerator = Accelerator(**options)
            differs = accelerator.device.type != device.type
        except ValueError:
            differs = True
        if differs:
            AcceleratorState._reset_state(reset_partial_state=True)
            accelerator = Accelerator(**options)
    if accelerator.device.type != device.type:
        raise TrainingError(
            f"accelerate computes on {accelerator.device} here, not on {device.type} as asked for; "
            f"uninstall torch_xla or set USE_TORCH_XLA=0 if that is what takes its place"
        )
    if accelerator.num_processes > 1:
        _patient()  # All processes must create it, and none is late here.
    return accelerator


def find_unused_parameters(accelerator: Accelerator) -> None:
    """Have models that are prepared from now on find parameters without a gradient in each step.

    Otherwise the processes of a step would wait for these gradients.
    """
    accelerator.ddp_handler = DistributedDataParallelKwargs(find_unused_parameters=True)


def overruled_settings(device: torch.device, precision: str) -> list[str]:
    """Return accelerate's environment settings that zoo overrides, as NAME=VALUE.

    Defaults, which `accelerate launch` always writes, are omitted.
    """
    agreed = {
        "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": ("1",),
        "ACCELERATE_MIXED_PRECISION": ("no", precision),
        "ACCELERATE_DYNAMO_BACKEND": ("no",),
        "ACCELERATE_TORCH_DEVICE": (device.type,),
    }
    found = [
        f"{name}={os.environ[name]}"
        for name, values in agreed.items()
        if name in os.environ and os.environ[name].lower() not in values
    ]
    if device.type != "cpu" and _is_on("ACCELERATE_USE_CPU"):
        found.append(f"ACCELERATE_USE_CPU={os.environ['ACCELERATE_USE_CPU']}")
    return found


def numeric_settings() -> dict[str, str]:
    """Return the environment variables that are set and change what libraries compute."""
    return {name: os.environ[name] for name in _NUMERIC if name in os.environ}


def _is_on(name: str) -> bool:
    return os.environ.get(name, "").lower() in ("1", "true", "yes", "on", "y", "t")


def _refuse_engines() -> None:
    engines = dict(_ENGINES)
    if os.environ.get("ACCELERATE_SAGEMAKER_DISTRIBUTED_TYPE", "NO").upper() != "NO":
        engines["ACCELERATE_USE_SAGEMAKER"] = "SageMaker's data parallelism"
    for name, engine in engines.items():
        if _is_on(name):
            raise TrainingError(
                f"{name}={os.environ[name]} asks for {engine}, which zoo does not support: each of "
                f"its processes trains the whole model on its share of the images",
                hint=f"unset {name}, or launch zoo with torchrun; a backbone that does not fit "
                f"into the memory of a device may with `lora_rank`, `freeze` or `train=probe`, "
                f"which need no gradients and optimizer state for all of it",
            )


@contextmanager
def _without_settings() -> Iterator[None]:
    """Hide accelerate's settings in the environment, so that only its arguments count.

    Not all settings have an argument, and later versions may read others.
    """
    hidden = {
        name: value
        for name, value in os.environ.items()
        if name.startswith("ACCELERATE_") and name not in _HARMLESS
    }
    for name in hidden:
        del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(hidden)
