"""Where and how the network's convolutions are computed: in torch, or compiled by OpenVINO."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

from udq.errors import DependencyError, InputError, UdqError
from udq.features import runtime

# Photos under way at most: each keeps its activations in memory, and more than this no longer fills one machine.
WORKERS = 16

SCALE = "longer in [images], now {},"
"""The setting to lower if a photo's activations do not fit into the GPU's memory."""


@dataclass(frozen=True)
class Engine:
    """Where and how convolutions are computed; everything after them is torch's and float32.

    Attributes:
        device: where.
        precision: the number format of their arithmetic.
        library: ``torch`` or ``openvino``.
    """

    device: torch.device
    precision: torch.dtype = torch.float32
    library: str = "torch"

    @staticmethod
    def fastest(device: str, network: str | None = None) -> Engine:
        """Return the fastest that there is.

        Args:
            device: ``auto`` (a GPU if there is one), ``cpu`` or ``cuda``.
            network: the library to use on a CPU, unless UDQ_NETWORK names another; the fastest installed if None.

        Raises:
            InputError: another device, no GPU, or an engine in UDQ_NETWORK that there is not.
        """
        place = device_of(device)
        return Engine(place, fast_precision(place), runtime.engine(network) if place.type == "cpu" else "torch")

    @property
    def weights(self) -> torch.dtype:
        """The number format that weights are given in: OpenVINO rounds them itself."""
        return torch.float32 if self.library == "openvino" else self.precision

    def facts(self) -> list[str]:
        """Return all that its results depend on."""
        return [torch.__version__, runtime.version(self.library), self.device.type, str(self.precision)]

    def compiled(
        self,
        function: Callable[..., Any],
        *inputs: Sequence[int | None],
        at_once: int,
    ) -> Callable[..., Any]:
        """Return a function with the same call that computes in this way.

        Args:
            function: of float32 tensors, with its weights as they are now.
            inputs: shape of each of its tensors; None where an axis has any length.
            at_once: threads that call it at the same time; one alone is given all cores.
        """
        if self.library == "torch":
            return function
        try:
            from udq.features.openvino import Compiled
        except ImportError as error:
            found = f"{runtime.version(self.library)} is installed, but cannot be imported: {error}"
            raise DependencyError(f"{found}; set the environment variable UDQ_NETWORK=torch") from error
        return Compiled(function, *inputs, precision=self.precision, at_once=at_once, threads=max(at_once, threads()))


@cache
def threads() -> int:
    """Return how many threads torch computes with, as it says when first asked.

    Later it would say what those that look at photos were given each: torch gives that to every new one.
    """
    return torch.get_num_threads()


def workers() -> int:
    """Return how many photos are worth looking at at the same time, each on one thread."""
    return min(threads(), WORKERS)


def device_of(name: str) -> torch.device:
    """Return where the network runs.

    Args:
        name: ``auto``, ``cpu`` or ``cuda``; ``auto`` is a GPU where there is one.

    Raises:
        InputError: another name, or no GPU.
    """
    if name not in ("auto", "cpu", "cuda"):
        raise InputError(f"device '{name}': expected auto, cpu or cuda")
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise InputError("device 'cuda': no usable GPU found; use --device cpu, or install a driver that torch sees")
    return torch.device("cuda" if available and name != "cpu" else "cpu")


def fast_precision(device: torch.device) -> torch.dtype:
    """Return bfloat16 for a CPU that multiplies it natively: twice the speed, the same mAP (docs/regions.md)."""
    # Older versions of torch cannot tell what the CPU does.
    able: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    native = device.type == "cpu" and (able.get("avx512_bf16") or able.get("amx_bf16"))
    return torch.bfloat16 if native else torch.float32


@contextmanager
def in_gpu_memory(setting: str) -> Iterator[None]:
    """Turn a GPU that is out of memory into an error that names the setting to lower."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise UdqError(f"out of GPU memory; lower {setting} in a --config file, or use --device cpu") from error
