"""The meaning of every metric and what it cannot show: the text of "How each figure was measured"."""

from __future__ import annotations

from typing import Final

from slr_bench.grid.description import MetricText

_CUDA_BLIND = "The CUDA context and other libraries' memory."
_HOST_BLIND = "Which part is tensors, libraries or allocator slack; a forked child starts lower than a fresh process."
_BETWEEN = "What happens between two samples; who caused it."

METRICS: Final[dict[str, MetricText]] = {
    "peak_tensor_bytes": MetricText(
        "tensor memory",
        "Most bytes of live tensors at once in one steady step: parameters, gradients, optimizer state, activations "
        "and the micro-batch. Counted from every operator in a step of its own, which is not timed.",
        "What an operator allocates inside itself, allocator rounding and fragmentation, the CUDA context.",
    ),
    "peak_allocated_bytes": MetricText(
        "GPU memory allocated",
        "Most bytes in blocks that torch's CUDA allocator had handed out.",
        _CUDA_BLIND + " A block can be larger than its request.",
    ),
    "peak_requested_bytes": MetricText(
        "GPU memory requested",
        "Most bytes that were asked of torch's CUDA allocator.",
        _CUDA_BLIND + " Rounding to blocks.",
    ),
    "peak_reserved_bytes": MetricText(
        "GPU memory reserved",
        "Most bytes that torch's CUDA allocator held from the driver.",
        _CUDA_BLIND + " It depends on what was allocated before, so it is no basis for a comparison.",
    ),
    "nvml_process_peak_bytes": MetricText(
        "GPU memory of the process",
        "Most bytes that the driver booked for the process, context included; sampled.",
        "Peaks between two samples.",
    ),
    "nvml_device_peak_bytes": MetricText(
        "GPU memory of the device",
        "Most bytes in use on the whole device, by whomever; sampled.",
        "Peaks between two samples; which part is this run's.",
    ),
    "nvml_device_over_idle_bytes": MetricText(
        "GPU memory over idle",
        "Most bytes in use on the device minus what was in use before the work. Only if no other process is on the "
        "GPU.",
        "Peaks between two samples; others, where the driver does not say who is on the GPU.",
    ),
    "gpu_memory_peak_bytes": MetricText(
        "GPU memory, best known",
        "What the driver books for the process; else the device over idle; else what torch reserved. The source says "
        "which.",
        "That of the source. Different sources do not compare.",
    ),
    "gpu_temperature_c": MetricText("GPU temperature", "Highest of the samples, a second apart.", _BETWEEN),
    "gpu_utilization_ratio": MetricText(
        "GPU utilisation",
        "Mean share of the time in which any kernel ran.",
        "How much of the GPU those kernels filled; whose they were.",
    ),
    "gpu_sm_clock_hz": MetricText("GPU clock", "Lowest of the samples, a second apart.", _BETWEEN),
    "gpu_memory_clock_hz": MetricText("GPU memory clock", "Lowest of the samples, a second apart.", _BETWEEN),
    "gpu_power_w": MetricText("GPU power", "Highest of the samples, a second apart.", _BETWEEN),
    "gpu_throttled_ratio": MetricText(
        "GPU throttled",
        "Share of the samples at which power, heat or the board slowed the clocks down; the source says what did.",
        "What happens between two samples.",
    ),
    "peak_rss_bytes": MetricText("RAM high-water mark", "Most resident RAM, as the kernel counts it.", _HOST_BLIND),
    "rss_over_start_bytes": MetricText(
        "RAM over start",
        "High-water mark minus what the process held before the work: the part that the work added.",
        _HOST_BLIND,
    ),
    "peak_pss_bytes": MetricText(
        "RAM of the process tree",
        "Proportional set size of the process and its children, shared pages counted once; sampled rarely.",
        "Peaks between two samples: it is a lower bound. Pages of libraries are split with strangers, too: another "
        "torch process on the machine lowers it (two of them: by 150 MiB).",
    ),
    "peak_cpu_allocator_bytes": MetricText(
        "CPU allocator",
        "Most bytes that torch's CPU allocator had handed out, from its own events.",
        "Memory that libraries take from the system themselves.",
    ),
    "step_time_s": MetricText(
        "step time",
        "Median of one process's timed optimizer steps, warm-up left out.",
        "Loading of data, validation, checkpoints; how another machine or a busy one would do.",
    ),
    "energy_j": MetricText(
        "energy", "Energy of the GPU for a step, or for a whole training.", "CPU, RAM and the power supply."
    ),
    "parameters": MetricText("parameters", "Trainable parameters of the network.", "Buffers."),
    "flops_per_step": MetricText("work of a step", "Floating-point operations of a step.", "How fast they run."),
    "floor_bytes": MetricText(
        "operator floor",
        "The least that the step can need unless operators are split. Every operator needs the state, the "
        "gradients still to be read, and its own inputs and outputs. The floor is the largest of these sums.",
        "Whether any schedule reaches it.",
    ),
    "peak_over_floor": MetricText(
        "peak/floor",
        "Tensor memory over the operator floor: 1 means that no order of the same operators could need less.",
        "Whether smaller operators would do.",
    ),
    "harness_s": MetricText(
        "harness", "What isolation, imports and the record add to a cell.", "Start of the fork server."
    ),
    "sampler_overhead_ratio": MetricText(
        "sampler's cost in time",
        "Step time with the sampler on over off, minus 1, from interleaved pairs in one process.",
        "Effects that outlast a pair.",
    ),
    "sampler_cpu_ratio": MetricText(
        "sampler's CPU share", "CPU time of the sampling thread over wall time.", "Waits that it causes in others."
    ),
    "parent_cpu_ratio": MetricText(
        "parent's CPU share", "CPU time of the parent over wall time, PSS reads apart.", "Its share of caches."
    ),
}
