"""Which module is running: by forward hooks in forward, by the node of the autograd graph in backward.

Every node is labelled with the module whose forward made it. The labels lie on the nodes themselves, so they hold
across threads (CUDA runs backward in another one) and die with the graph.
"""

from __future__ import annotations

from contextlib import ExitStack
from types import TracebackType
from typing import Any, NamedTuple, Self

import torch
from torch import nn
from torch.optim import optimizer as optim

from slr_bench.live_bytes import tensors_in
from slr_bench.trace.recording import BUFFER, OPTIMIZER_STATE, PARAMETER

NO_MODULE = "(outside modules)"
SPLIT_ATTRIBUTE = "splits_work"
"""A module that computes one operator's function with several smaller ones sets this attribute to True."""
_LABEL = "slr_bench.module"


class _Entry(NamedTuple):
    name: str
    node: Any
    """The autograd node during which the module was entered: that of a recomputation, else None."""


class ModuleTracker:
    """While open, :meth:`current` names the innermost module at work, by its path from the outermost one called."""

    def __init__(self) -> None:
        self._stack: list[_Entry] = []
        self._names: dict[int, str] = {}
        self._hooks = ExitStack()
        self.roots: list[nn.Module] = []
        """Modules called by no other, or not listed by the one that called them."""
        self.split: dict[str, None] = {}
        """Modules called that say of themselves that they do one operator's work in several."""
        self.optimizers: list[torch.optim.Optimizer] = []
        """Optimizers that took a step."""

    def __enter__(self) -> Self:
        forward = nn.modules.module
        for handle in (
            forward.register_module_forward_pre_hook(self._entering),
            forward.register_module_forward_hook(self._left, always_call=True),
            optim.register_optimizer_step_pre_hook(self._optimizer_begins),
            optim.register_optimizer_step_post_hook(self._optimizer_ended),
        ):
            self._hooks.callback(handle.remove)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._hooks.close()

    def current(self, node: Any) -> str:
        """The module at work; ``node`` is the autograd node being evaluated, None outside backward."""
        if node is None:
            return self._stack[-1].name if self._stack else NO_MODULE
        if self._stack and self._stack[-1].node is node:  # entered while this node ran: it recomputes
            return self._stack[-1].name
        label: str = node.metadata.get(_LABEL, NO_MODULE)
        return label

    def owned(self) -> dict[int, tuple[str, str]]:
        """Storage key -> module and category, of what the modules called and the optimizers that stepped own."""
        found: dict[int, tuple[str, str]] = {}
        for root in self.roots:
            for module in root.modules():
                for category, tensors in ((PARAMETER, module._parameters), (BUFFER, module._buffers)):
                    for tensor in tensors_in(tensors):
                        found.setdefault(tensor.untyped_storage()._cdata, (self._name(module), category))
        for optimizer in self.optimizers:
            for parameter, state in optimizer.state.items():
                owner, _ = found.get(parameter.untyped_storage()._cdata, (NO_MODULE, ""))
                for tensor in tensors_in(state):
                    found.setdefault(tensor.untyped_storage()._cdata, (owner, OPTIMIZER_STATE))
        return found

    def _name(self, module: nn.Module) -> str:
        return self._names.get(id(module), type(module).__name__)

    def _entering(self, module: nn.Module, inputs: Any) -> None:
        node = torch._C._current_autograd_node()
        label_nodes(inputs, self.current(node))
        if id(module) not in self._names:
            self._add_root(module)
        self._stack.append(_Entry(self._name(module), node))
        if getattr(module, SPLIT_ATTRIBUTE, False):
            self.split[self._name(module)] = None

    def _left(self, module: nn.Module, inputs: Any, output: Any) -> None:
        label_nodes(output, self._stack.pop().name)

    def _add_root(self, module: nn.Module) -> None:
        within = self._stack[-1].name + "." if self._stack else ""  # made in forward: its owner does not list it
        self.roots.append(module)
        for name, child in module.named_modules():
            self._names.setdefault(id(child), within + (name or type(module).__name__))

    def _optimizer_begins(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        if all(known is not optimizer for known in self.optimizers):
            self.optimizers.append(optimizer)
        self._stack.append(_Entry(type(optimizer).__name__, torch._C._current_autograd_node()))

    def _optimizer_ended(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        self._stack.pop()


def label_nodes(outputs: Any, name: str) -> None:
    """Label the nodes behind ``outputs`` that have no label yet; labelled ones were made before."""
    todo = [tensor.grad_fn for tensor in tensors_in(outputs)]
    while todo:
        node: Any = todo.pop()
        if node is None or _LABEL in node.metadata:
            continue
        node.metadata[_LABEL] = name
        todo += [following for following, _ in node.next_functions]
