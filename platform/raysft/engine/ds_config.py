"""ResolvedRun -> DeepSpeed config. Pure; every key is here on purpose."""

from __future__ import annotations

from typing import Any

from raysft.recipe.overlap import overlaps
from raysft.recipe.resolve import ResolvedRun

REDUCE_BUCKET = 50_000_000
"""Elements of the gradients that are summed over ranks at a time, in a copy of them (DeepSpeed's own: ten times as
many)."""


def effective_stage(run: ResolvedRun) -> int:
    """ZeRO stage DeepSpeed runs. bf16 with ZeRO 0 becomes 1: only there are fp32 masters and sums kept."""
    stage = run.recipe.parallel.zero
    return 1 if stage == 0 and run.recipe.train.precision == "bf16" else stage


def keeps_bf16_apart(run: ResolvedRun) -> bool:
    """Is bf16 ZeRO 1 DeepSpeed's BF16_Optimizer? With offload it is the optimizer of fp32 ZeRO 1 and of ZeRO 2."""
    return run.recipe.train.precision == "bf16" and run.recipe.parallel.offload == "none"


def deepspeed_config(run: ResolvedRun) -> dict[str, Any]:
    """The engine sets accumulation borders, loss scale and learning rate itself, so here they are neutral."""
    train = run.recipe.train
    bf16 = train.precision == "bf16"
    stage = effective_stage(run)
    config: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": train.micro_batch_rows,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": run.recipe.optimizer.max_grad_norm if stage else 0.0,  # fp32 ZeRO 0: the engines clip
        "zero_optimization": {
            "stage": stage,
            "reduce_bucket_size": REDUCE_BUCKET,  # allocated whole
            "overlap_comm": overlaps(run.recipe),
            "zero_hpz_partition_size": run.recipe.parallel.secondary_shards,
            **_offload(run, stage),
        },
        "bf16": {"enabled": bf16},
        "steps_per_print": 2**31,
        "wall_clock_breakdown": False,
        "timers": {"throughput": {"enabled": False}},  # it waits for the device in every pass
    }
    if run.layout.tensor > 1:
        config["tensor_parallel"] = {"autotp_size": run.layout.tensor}  # the layers are cut already: tensor.py
    if run.recipe.parallel.offload != "none":
        config["zero_force_ds_cpu_optimizer"] = False  # torch's fused AdamW: DeepSpeed's needs a compiler
    if run.recipe.optimizer.needs_whole:
        config["zero_allow_untested_optimizer"] = True  # ours: muon.py, adafactor.py
    if train.reduce_precision is not None:
        config["communication_data_type"] = train.reduce_precision
    if bf16:
        config["data_types"] = {"grad_accum_dtype": "fp32"}
    return config


def _offload(run: ResolvedRun, stage: int) -> dict[str, Any]:
    """What lies in host memory."""
    device = run.recipe.parallel.offload
    if device == "none":
        return {}
    parts = ("offload_optimizer", "offload_param") if stage == 3 else ("offload_optimizer",)
    return {part: {"device": device, "pin_memory": run.recipe.cluster.gpus_per_worker > 0} for part in parts}
