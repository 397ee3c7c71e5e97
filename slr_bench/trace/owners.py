"""Owners of tensors: the module at work, the source line that made a tensor, and whether autograd saves it.

The module is known by hooks in forward, and in backward by the node of the autograd graph. Every node is labelled with
the module whose forward made it. The labels lie on the nodes themselves, so they hold across threads (CUDA runs
backward in another one) and die with the graph.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks
from torch.optim import optimizer as optim

from slr_bench.live_bytes import tensors_in
from slr_bench.trace.step_trace import BUFFER, OPTIMIZER_STATE, PARAMETER

NO_MODULE = "(outside modules)"
SPLIT_ATTRIBUTE = "splits_work"
"""A module that computes one operator's function with several smaller ones sets this attribute to True."""
_LABEL = "slr_bench.module"

_TORCH = str(Path(torch.__file__).parent)  # also the prefix of torchvision's directory, which is skipped too
_TRACE = Path(__file__).parent
_COUNTER = ("live_bytes.py", "untraced.py", "untraced_formulas.py")
OWN_SOURCE = (f"{_TRACE}/", *(str(_TRACE.with_name(name)) for name in _COUNTER))
"""Source files of the tracer: no tensor of the step is made there."""
_ENGINE = "_engine_run_backward"
_shown_files: dict[str, str | None] = {}
"""File name -> how it is shown, or None for files that are skipped."""


class _Entry(NamedTuple):
    name: str
    node: Any
    """The autograd node during which the module was entered; it recomputes then. None in forward."""


class ModuleTracker:
    """While open, :meth:`current` names the innermost module at work by its path from the outermost module."""

    def __init__(self) -> None:
        self._stack: list[_Entry] = []
        self._names: dict[int, str] = {}
        self._hooks = ExitStack()
        self.roots: list[nn.Module] = []
        """Modules that no other module called, or that their caller does not list."""
        self.split: dict[str, None] = {}
        """Names of the modules that declare that they split one operator's work."""
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
        """Return the module at work; ``node`` is the autograd node being evaluated, None outside backward."""
        if node is None:
            return self._stack[-1].name if self._stack else NO_MODULE
        if self._stack and self._stack[-1].node is node:  # entered while this node ran: it recomputes
            return self._stack[-1].name
        label: str = node.metadata.get(_LABEL, NO_MODULE)
        return label

    def owned(self) -> dict[int, tuple[str, str]]:
        """Return module and category of each storage that a called module or an optimizer owns, by storage key."""
        owners: dict[int, tuple[str, str]] = {}
        for root in self.roots:
            for module in root.modules():
                for category, tensors in ((PARAMETER, module._parameters), (BUFFER, module._buffers)):
                    for tensor in tensors_in(tensors):
                        owners.setdefault(tensor.untyped_storage()._cdata, (self._name(module), category))
        for optimizer in self.optimizers:
            for parameter, state in optimizer.state.items():
                owner, _ = owners.get(parameter.untyped_storage()._cdata, (NO_MODULE, ""))
                for tensor in tensors_in(state):
                    owners.setdefault(tensor.untyped_storage()._cdata, (owner, OPTIMIZER_STATE))
        return owners

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
    """Label the autograd nodes behind ``outputs`` that have no label yet; labelled nodes were made before."""
    todo = [tensor.grad_fn for tensor in tensors_in(outputs)]
    while todo:
        node: Any = todo.pop()
        if node is None or _LABEL in node.metadata:
            continue
        node.metadata[_LABEL] = name
        todo += [following for following, _ in node.next_functions]


class SavedTensors:
    """Call ``note`` with every tensor that is saved for backward while open.

    Autograd calls only the innermost pair of hooks. So hooks that others push meanwhile (checkpoint's recomputation,
    ``save_on_cpu``) are wrapped: the tensors that their ``pack`` returns are those saved. Checkpoint's forward returns
    none.
    """

    def __init__(self, note: Callable[[torch.Tensor], None]) -> None:
        self._note = note
        self._base = saved_tensors_hooks(self._packed, lambda tensor: tensor)

    def __enter__(self) -> Self:
        self._base.__enter__()
        self._plain_enter = saved_tensors_hooks.__enter__
        saved_tensors_hooks.__enter__ = self._entering()  # type: ignore[method-assign]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        saved_tensors_hooks.__enter__ = self._plain_enter  # type: ignore[method-assign]
        self._base.__exit__()

    def _packed(self, tensor: torch.Tensor) -> torch.Tensor:
        self._note(tensor)
        return tensor

    def _entering(self) -> Callable[[saved_tensors_hooks], None]:
        note = self._note

        def entering(hooks: saved_tensors_hooks) -> None:
            plain = hooks.pack_hook

            @functools.wraps(plain)  # checkpoint reads attributes of its own hooks
            def pack(tensor: torch.Tensor) -> Any:
                try:
                    kept = plain(tensor)
                except Exception:  # checkpoint ends a recomputation like this once it has kept the last tensor it needs
                    note(tensor)
                    raise
                for inner in tensors_in(kept):
                    note(inner)
                return kept

            torch._C._autograd._push_saved_tensors_default_hooks(pack, hooks.unpack_hook)

        return entering


def origin(node: Any) -> str:
    """Return the source line that makes a tensor, such as ``models/networks/backbone.py:88``.

    It is the nearest line outside torch and the tracer. In backward it is the node's name, unless Python code runs in
    it.
    """
    frame = sys._getframe(2)
    while frame is not None:
        code = frame.f_code
        if node is not None and code.co_name == _ENGINE:
            name: str = node.name()
            return name
        file = _shown_files.get(code.co_filename, "")
        if file == "":
            file = _shown_files[code.co_filename] = _shown_file(code.co_filename)
        if file is not None:
            return f"{file}:{frame.f_lineno}"
        frame = frame.f_back  # type: ignore[assignment]
    return "unknown"


def _shown_file(file: str) -> str | None:
    """Return the file relative to where Python found it, so that no path of a machine is shown; None skips it."""
    if file.startswith((_TORCH, *OWN_SOURCE, "<")):
        return None
    inside = [entry for entry in sys.path if entry and file.startswith(entry.rstrip("/") + "/")]
    return file[len(max(inside, key=len).rstrip("/")) + 1 :] if inside else Path(file).name
