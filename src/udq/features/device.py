"""The device, precision and library that compute the network's convolutions: torch, or a graph compiled by OpenVINO."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from udq.common.threads import count
from udq.errors import DependencyError, InputError, UdqError
from udq.features import runtime

# Most photos in progress at a time: each holds its activations in memory, and more no longer speed up one machine.
_WORKERS = 16

SCALE = "longer in [images], now {},"
"""Name of the setting to lower if a photo's activations do not fit into the GPU's memory; takes its value."""


@dataclass(frozen=True)
class Engine:
    """Where and how convolutions are computed; everything after them is computed by torch in float32.

    Attributes:
        device: the device that computes.
        precision: number format of the convolutions' arithmetic.
        library: ``torch`` or ``openvino``.
        threads: CPU threads that all computations of this process share.
    """

    device: torch.device
    precision: torch.dtype = torch.float32
    library: str = "torch"
    threads: int = 1

    @staticmethod
    def fastest(device: str, network: str | None = None, threads: int | None = None) -> Engine:
        """Return the fastest engine of this machine.

        Args:
            device: ``auto`` (a GPU if there is one), ``cpu`` or ``cuda``.
            network: library to use on a CPU unless UDQ_NETWORK names another; the fastest installed one if None.
            threads: CPU threads; as many as there are cores if None.

        Raises:
            InputError: an unknown device, no usable GPU, a library that is not installed, or fewer than one thread.
        """
        place = device_of(device)
        library = runtime.engine(network) if place.type == "cpu" else "torch"
        return Engine(place, fast_precision(place), library, count(threads))

    @property
    def weights(self) -> torch.dtype:
        """Number format in which weights are passed: OpenVINO rounds float32 weights itself."""
        return torch.float32 if self.library == "openvino" else self.precision

    @property
    def workers(self) -> int:
        """Number of photos to process at a time, each on one thread."""
        return min(self.threads, _WORKERS)

    def facts(self) -> list[str]:
        """Return everything that the results depend on."""
        return [torch.__version__, runtime.version(self.library), self.device.type, str(self.precision)]

    def compiled(
        self,
        function: Callable[..., Any],
        *inputs: Sequence[int | None],
        at_once: int,
    ) -> Callable[..., Any]:
        """Return a function with the same signature that this engine computes.

        Args:
            function: takes float32 tensors; its weights are copied as they are now.
            inputs: shape of each tensor; None for an axis of any length.
            at_once: number of threads that call it concurrently; a single caller gets all cores.

        Raises:
            DependencyError: the library is installed, but cannot be imported.
        """
        if self.library == "torch":
            return function
        try:
            from udq.features.openvino import Compiled

            most = max(at_once, self.threads)
            return Compiled(function, *inputs, precision=self.precision, at_once=at_once, threads=most)
        except ImportError as error:
            found = f"{runtime.version(self.library)} is installed, but cannot be imported: {error}"
            raise DependencyError(f"{found}; set the environment variable UDQ_NETWORK=torch") from error


def device_of(name: str) -> torch.device:
    """Return the device that the network runs on.

    Args:
        name: ``auto`` (a GPU if there is one), ``cpu`` or ``cuda``.

    Raises:
        InputError: an unknown name, or no usable GPU.
    """
    if name not in ("auto", "cpu", "cuda"):
        raise InputError(f"device '{name}': expected auto, cpu or cuda")
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise InputError("device 'cuda': no usable GPU found; use --device cpu, or install a driver that torch sees")
    return torch.device("cuda" if available and name != "cpu" else "cpu")


def fast_precision(device: torch.device) -> torch.dtype:
    """Return bfloat16 for a CPU that multiplies it natively: twice the speed, the same mAP (docs/regions.md)."""
    # Older versions of torch do not report the capabilities of the CPU.
    able: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    native = device.type == "cpu" and (able.get("avx512_bf16") or able.get("amx_bf16"))
    return torch.bfloat16 if native else torch.float32


@contextmanager
def in_gpu_memory(setting: str) -> Iterator[None]:
    """Turn torch's out-of-memory error into a ``UdqError`` that names the setting to lower."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise UdqError(f"out of GPU memory; lower {setting} in a --config file, or use --device cpu") from error
