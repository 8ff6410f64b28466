"""PyTorch: the CPU, and the GPUs of NVIDIA, AMD, Intel and Apple."""

import importlib
from typing import Any

import array_api_compat
import numpy as np

from bp_xp._optional import require
from bp_xp._typing import Array, Namespace
from bp_xp.backends.library import Form, Library
from bp_xp.backends.torch import communicator
from bp_xp.backends.torch.engine import ENGINE
from bp_xp.errors import DeviceError

__all__ = ["Torch"]

_LINE = 64  # bytes of a line of the cache


class Torch(Library):
    """PyTorch: any device that it has a name for."""

    name = "torch"
    engine = ENGINE
    extra: str | None = "torch"
    device_words = "'cpu', 'cuda', 'cuda:N', 'xpu', 'mps', ..."
    talks_by = "torch"
    started_by = "torchrun --nproc-per-node 2 script.py"

    def namespace(self) -> Namespace:
        require("torch", self.extra)
        return importlib.import_module("array_api_compat.torch")

    def owns(self, array: Array) -> bool:
        return array_api_compat.is_torch_array(array)

    def default_device(self) -> Any:
        return require("torch", self.extra).device("cpu")

    def best_device(self) -> Any:
        torch = require("torch", self.extra)
        if communicator.is_launched() and torch.cuda.device_count():
            return self.find("cuda")
        return [*self.devices()[1:], self.default_device()][0]

    def devices(self) -> list[Any]:
        torch = require("torch", self.extra)
        found = [torch.device("cpu")]
        for kind in ("cuda", "xpu", "mps"):
            found += [torch.device(kind, i) for i in range(getattr(torch, kind).device_count())]
        return found

    def find(self, word: str) -> Any:
        torch = require("torch", self.extra)
        if word == "cuda" and communicator.is_launched():
            word = communicator.own_gpu()
        try:
            device = torch.device(word)
        except RuntimeError as error:
            raise self._unknown(word) from error
        try:
            # An empty array fills in the index of the device: 'cuda' becomes 'cuda:0'.
            return torch.empty(0, device=device).device
        except (RuntimeError, AssertionError, NotImplementedError) as error:
            raise DeviceError(
                f"device {word!r} of backend 'torch' does not work here: {error}"
            ) from error

    def from_numpy(self, array: np.ndarray, device: Any) -> Array:
        torch = require("torch", self.extra)
        # PyTorch would warn about memory that it could write to but must not, so that is copied.
        make = torch.asarray if array.flags.writeable else torch.tensor
        return make(array, device=device)

    def odd_form(self, array: Array) -> Form | None:
        torch = require("torch", self.extra)
        if array.is_nested:
            return Form("a nested tensor", "pass torch.nested.to_padded_tensor({0}, 0.0)")
        if array.is_quantized:
            return Form("a quantized tensor", "pass {0}.dequantize()")
        if hasattr(array, "full_tensor"):
            return Form("a tensor that is spread over processes", "pass {0}.full_tensor()")
        if array.layout != torch.strided:
            return Form("a sparse tensor", "pass {0}.to_dense()")
        return None

    def by_value(self, array: Array) -> Array:
        return array.detach()

    def to_numpy(self, array: Array) -> np.ndarray:
        torch = require("torch", self.extra)
        host = array.detach().cpu().resolve_conj().resolve_neg()
        # NumPy has no bfloat16, and no floats of one byte; each is a float32 as well.
        known = (torch.float16, torch.float32, torch.float64)
        if host.dtype.is_floating_point and host.dtype not in known:
            host = host.to(torch.float32)
        return host.numpy()

    def aligned(self, batches: Array) -> Array:
        # On a CPU, the rounding of a product depends on where its arrays begin in a cache line. So
        # each mini-batch begins a new line: a step is then the same anywhere in a chunk.
        size = batches[0, ...].numel()
        room = -(-size * batches.itemsize // _LINE) * _LINE // batches.itemsize
        at_its_place = size == room and batches.data_ptr() % _LINE == 0
        if batches.device.type != "cpu" or at_its_place or batches.ndim == 1:
            return batches
        spread = batches.new_empty((batches.shape[0], room))[:, :size]
        return spread.unflatten(1, batches.shape[1:]).copy_(batches)

    def is_launched(self) -> bool:
        return communicator.is_launched()

    def communicator(self, group: Any = None) -> Any:
        return communicator.of_group(group)

    def ran_out_of_memory(self, error: Exception) -> bool:
        torch = require("torch", self.extra)
        return (
            super().ran_out_of_memory(error)
            or isinstance(error, torch.OutOfMemoryError)
            or "DefaultCPUAllocator: can't allocate memory" in str(error)
        )
