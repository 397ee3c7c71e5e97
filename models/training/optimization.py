"""The parts of an optimizer step: compute type, optimizer, learning rate, gradient scaler, update inside backward."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.optim import SGD, AdamW, Optimizer

from models.config import TrainingConfig
from slr_bench.errors import UnsupportedSettingError

FP32_PRECISIONS = {"fp32": "ieee", "tf32": "tf32"}
AUTOCAST_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(device: torch.device, config: TrainingConfig) -> torch.autocast:
    """Return the context for the compute type of ``config`` in a forward pass; it does nothing at fp32.

    The weight cache is off. Each weight is used once per forward pass, so the cache would only keep its cast alive.
    """
    dtype = AUTOCAST_DTYPES.get(config.precision)
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not None, cache_enabled=False)


@contextmanager
def fp32_products(config: TrainingConfig) -> Iterator[None]:
    """Set how CUDA multiplies fp32 numbers while open, including backward.

    ``tf32`` rounds the factors to 10 bits, ``fp32`` does not; torch's default rounds in convolutions and not in
    products. The other types change nothing. A CPU is not affected, because oneDNN would round to bf16, and ``tf32`` is
    documented to be fp32 there.
    """
    precision = FP32_PRECISIONS.get(config.precision)
    if precision is None:
        yield
        return
    backends: tuple[Any, ...] = (torch.backends.cuda.matmul, torch.backends.cudnn.conv, torch.backends.cudnn.rnn)
    before = [backend.fp32_precision for backend in backends]
    try:
        for backend in backends:
            backend.fp32_precision = precision
        yield
    finally:
        for backend, value in zip(backends, before, strict=True):
            backend.fp32_precision = value


def build_optimizer(model: nn.Module, config: TrainingConfig) -> Optimizer:
    """Return AdamW or SGD with torch's own defaults (foreach on CUDA); norms and biases (vectors) have no decay.

    Raises:
        UnsupportedSettingError: ``adamw_8bit`` without torchao.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [parameter for parameter in trained if parameter.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [parameter for parameter in trained if parameter.ndim <= 1], "weight_decay": 0.0},
    ]
    if config.optimizer == "sgd":
        return SGD(groups, lr=config.learning_rate, momentum=0.9)
    kind = adamw_8bit() if config.optimizer == "adamw_8bit" else AdamW
    return kind(groups, lr=config.learning_rate)


def adamw_8bit() -> type[Optimizer]:
    """Return AdamW with moments of 8 bits per number and 32 per block of 256 (Dettmers et al., ICLR 2022), of torchao.

    Parameters below 4096 numbers, or not of whole blocks, have moments of their own type.

    Raises:
        UnsupportedSettingError: torchao, an optional package, is not installed.
    """
    try:
        from torchao.optim.subclass_8bit import OptimState8bit
    except ImportError as error:
        raise UnsupportedSettingError(
            "training.optimizer: adamw_8bit needs the package torchao, which is not installed; "
            "pip install torchao, or use training.optimizer: adamw"
        ) from error
    for signed in (True, False):  # its tables of values are made once, and cannot be made among fake tensors
        OptimState8bit.zeros((1,), signed, block_size=1)
    return _eager_adamw_8bit()


def _eager_adamw_8bit() -> type[Optimizer]:
    from torchao.optim import AdamW8bit

    class EagerAdamW8bit(AdamW8bit):
        """torchao's optimizer without compilation, with plain numbers as rates and second moments above zero.

        torchao compiles the update of every shape, which takes minutes, and its rates are tensors, which would be real
        ones among fake ones. A second moment must not round to zero: if the gradient then vanishes (a ReLU that no
        longer fires), the first moment is divided by ``eps`` alone. Weights of size 1 moved by 174 in one step. Rounded
        up, such a number moves less, not more.
        """

        def add_param_group(self, param_group: dict[str, Any]) -> None:
            rate = param_group.get("lr", self.defaults["lr"])
            super().add_param_group(param_group)
            self.param_groups[-1]["lr"] = rate

        def step(self, closure: Any = None) -> Any:
            rates = [group["lr"] for group in self.param_groups]
            for group in self.param_groups:
                group["lr"] = torch.tensor(group["lr"])
            try:
                with torch.compiler.set_stance("force_eager"):
                    loss = super().step(closure)
            finally:
                for group, rate in zip(self.param_groups, rates, strict=True):
                    group["lr"] = rate
            self._keep_above_zero()
            return loss

        def _keep_above_zero(self) -> None:
            for group in self.param_groups:
                for parameter in group["params"]:
                    codes = getattr(self.state.get(parameter, {}).get("exp_avg_sq"), "codes", None)
                    if codes is not None:
                        codes.clamp_(min=1)  # code 0 is zero, code 1 a three-millionth of the block's largest

    return EagerAdamW8bit


def update_in_backward(optimizer: Optimizer) -> None:
    """Let backward update each parameter as soon as its gradient is complete, and free the gradient.

    This is the optimizer inside backward of LOMO (Lv et al., 2023). The results equal ``optimizer.step()`` after
    backward bit for bit: an update needs only its own gradient, and backward no longer reads the parameter by then.
    State and ``state_dict`` stay those of the optimizer, with one entry per parameter. The learning rates are those of
    ``param_groups`` at that moment.

    It saves the bytes of all gradients except the largest one. It costs one call of the optimizer per parameter, so a
    fused or foreach implementation has nothing to join.
    """
    for number, group in enumerate(optimizer.param_groups):
        for parameter in group["params"]:
            parameter.register_post_accumulate_grad_hook(partial(_update_parameter, optimizer, number))


def _update_parameter(optimizer: Optimizer, group_number: int, parameter: Tensor) -> None:
    groups = optimizer.param_groups
    optimizer.param_groups = [{**groups[group_number], "params": [parameter]}]
    try:
        optimizer.step()
    finally:
        optimizer.param_groups = groups
    parameter.grad = None


def one_cycle(step: int, total_steps: int, warmup_fraction: float) -> float:
    """Return the factor of the peak learning rate at ``step`` (from 0): a linear rise, then half a cosine to 0.

    The cosine starts at 1 on the first step after the rise and reaches 0 after the last step.
    """
    warmup_steps = round(total_steps * warmup_fraction)
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def steps_per_epoch(clips: int, config: TrainingConfig) -> int:
    """Return the optimizer steps for ``clips`` clips; a partial window at the end counts as one."""
    return math.ceil(clips / config.effective_batch)


class GradScaler(torch.amp.GradScaler):
    """Gradient scaler of fp16 that also works on fake tensors, which have no contents and never overflow."""

    def tensors(self) -> list[torch.Tensor]:
        """Return the scale and the count of steps since its last change; [] before the first loss or if disabled."""
        tensors = (self._scale, self._growth_tracker) if self._enabled else ()
        return [tensor for tensor in tensors if tensor is not None]

    def _maybe_opt_step(
        self, optimizer: Optimizer, optimizer_state: dict[str, Any], *args: Any, **kwargs: Any
    ) -> float | None:
        overflows = optimizer_state["found_inf_per_device"].values()
        if any(isinstance(value, FakeTensor) for value in overflows):
            return optimizer.step(*args, **kwargs)
        return super()._maybe_opt_step(optimizer, optimizer_state, *args, **kwargs)

    def get_scale(self) -> float:
        """Return the scale as a number; on fake tensors the initial scale."""
        if self._enabled and isinstance(self._scale, FakeTensor):
            return float(self._init_scale)
        return super().get_scale()
