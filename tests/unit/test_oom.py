"""Every way in which torch, its libraries and the kernel report that memory ran out, by their real messages."""

import subprocess
import sys

import pytest
import torch

from models.training.out_of_memory import DoesNotFit, OutOfMemory, explain_out_of_memory, run_or_catch_oom
from slr_bench.execute.job import Job, MeasureCell, Work
from slr_bench.oom import ALLOCATION_ERRORS, OutOfMemoryKind, out_of_memory_kind
from slr_bench.record import Outcome
from slr_bench.worker import main as worker

GPU, HOST = OutOfMemoryKind.GPU, OutOfMemoryKind.HOST
CUDA = (
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 5.80 GiB of which 1.21 GiB is free. "
    "Including non-PyTorch memory, this process has 4.58 GiB memory in use."
)
REAL = {
    "torch_gpu": (torch.OutOfMemoryError(CUDA), GPU),
    "cudnn": (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), GPU),
    "cublas": (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), GPU),
    "cufft": (RuntimeError("cuFFT error: CUFFT_ALLOC_FAILED"), GPU),
    "driver": (torch.AcceleratorError("CUDA error: out of memory\nCUDA kernel errors might be reported later"), GPU),
    "nccl": (RuntimeError("NCCL error: unhandled cuda error\nLast error:\nCuda failure 2 'out of memory'"), GPU),
    "cpp": (RuntimeError("std::bad_alloc"), HOST),
    "torch_cpu": (
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to "
            "allocate 1125899906842624 bytes. Error code 12 (Cannot allocate memory)"
        ),
        HOST,
    ),
    "torch_cpu_of_windows": (
        RuntimeError("[enforce fail at alloc_cpu.cpp:75] data. DefaultCPUAllocator: not enough memory: you tried to"),
        HOST,
    ),
    "python": (MemoryError(), HOST),
    "kernel": (OSError(12, "Cannot allocate memory"), HOST),
    "onednn": (RuntimeError("could not create a primitive"), HOST),
}
OTHERS = {
    "shapes": RuntimeError("shapes differ"),
    "unsupported": RuntimeError("could not create a primitive descriptor for a convolution forward propagation"),
    "no_torch_error": ValueError("can't allocate memory"),
    "disk": OSError(28, "No space left on device"),
    "illegal_address": RuntimeError("CUDA error: an illegal memory access was encountered"),
    "static_tls": OSError("libgomp.so.1: cannot allocate memory in static TLS block"),
    "threads": RuntimeError("can't start new thread"),
}


@pytest.mark.parametrize(("error", "kind"), REAL.values(), ids=REAL)
def test_real_messages_are_classified(error, kind):
    assert isinstance(error, ALLOCATION_ERRORS)
    assert out_of_memory_kind(error) is kind
    assert out_of_memory_kind(f"{type(error).__name__}: {error}") is kind


@pytest.mark.parametrize("error", OTHERS.values(), ids=OTHERS)
def test_other_errors_are_not_out_of_memory(error):
    assert out_of_memory_kind(error) is None


def test_torch_raises_a_message_of_this_form():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**50, dtype=torch.uint8)
    assert out_of_memory_kind(caught.value) is HOST


@pytest.mark.parametrize("text", ["can't start new thread", "could not create a memory object"])
def test_at_a_ram_limit_threads_and_operators_fail_first(text):
    assert out_of_memory_kind(RuntimeError(text), is_ram_limited=True) is HOST
    assert out_of_memory_kind(RuntimeError(text)) is None


@pytest.mark.parametrize(("error", "kind"), REAL.values(), ids=REAL)
def test_worker_and_trainer_classify_alike(error, kind, monkeypatch):
    def fails(*_arguments):
        raise error

    monkeypatch.setattr("slr_bench.worker.measure.measure", fails)
    outcome, _, _ = worker.do_task(Job(MeasureCell(Work("toy", {}), 1, 1, 1)), lambda message: None)
    assert outcome == {GPU: Outcome.OOM_GPU, HOST: Outcome.OOM_HOST}[kind]
    assert isinstance(run_or_catch_oom(fails, lambda: True), OutOfMemory)
    memory = {GPU: "GPU memory", HOST: "memory"}[kind]
    reports = pytest.raises(DoesNotFit, match=f"^out of {memory}: a step does not fit")
    with reports, explain_out_of_memory(lambda: "a step", may_halve=False):
        fails()


def test_the_classifier_does_not_import_torch():
    code = "import slr_bench.oom, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0
