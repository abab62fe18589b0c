"""A network of torch, compiled by OpenVINO: the same call on the same numbers.

The network is run once on symbols, which stand in for tensors and note as a graph of OpenVINO what is done to them.
Weights are copied: who changes them compiles anew. OpenVINO's own converter would take longer than compiling does, and
trace by a part of torch that is to go.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from udq.errors import UdqError


@contextmanager
def _unreported() -> Iterator[None]:
    """Keep OpenVINO from reporting its use.

    Its import sends an event over the network and leaves a mark in the user's home, unless the package that does so is
    not there. A user who imported OpenVINO before has decided otherwise.
    """
    reporter = "openvino_telemetry"
    absent = reporter not in sys.modules
    if absent:
        sys.modules[reporter] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        if absent:
            del sys.modules[reporter]


with _unreported():
    import openvino
    from openvino import opset15 as opset

# The first array that reaches OpenVINO is one thread's: two at the same time could wait for each other for ever. What
# its bindings set up then has a lock, and who holds that one asks for the interpreter's, which the other holds.
_ = openvino.Tensor(np.zeros(1, np.float32), shared_memory=True).data

_TYPES = {torch.float32: openvino.Type.f32, torch.bfloat16: openvino.Type.bf16}


class Symbol:
    """A tensor that is not there yet.

    Functions of torch find their way here by its protocol ``__torch_function__``, methods of tensors by their names.
    """

    def __init__(self, node: openvino.Node) -> None:
        self.node = node.output(0)

    @classmethod
    def __torch_function__(
        cls, function: Callable[..., Any], types: Any, arguments: Sequence[Any] = (), named: Any = None
    ) -> Symbol:
        if function not in _OPERATIONS:
            raise UdqError(
                f"{getattr(function, '__name__', function)} is no operation that this network's way to OpenVINO knows; "
                "set the environment variable UDQ_NETWORK=torch"
            )
        return cls(_OPERATIONS[function](*arguments, **(named or {})))

    @property
    def shape(self) -> Symbol:
        """The lengths of its axes, (axes,) integers."""
        return Symbol(opset.shape_of(self.node))

    def __getitem__(self, part: int | slice | None) -> Symbol:
        if part is None:
            return Symbol(opset.unsqueeze(self.node, 0))
        if isinstance(part, int):
            return Symbol(opset.gather(self.node, part, 0))
        return Symbol(opset.slice(self.node, [part.start], [2**31 - 1], [1], [0]))

    def __add__(self, other: Symbol) -> Symbol:
        return Symbol(opset.add(self.node, other.node))

    def dim(self) -> int:
        """Return how many axes it has."""
        return int(self.node.get_partial_shape().rank.get_length())

    def float(self) -> Symbol:
        """Cast to float32."""
        return Symbol(opset.convert(self.node, "f32"))

    def to(self, *_: object, **__: object) -> Self:
        """Stay: where it is computed, and how precisely, is OpenVINO's to know."""
        return self


class Compiled:
    """A function of tensors, compiled. Threads may call it at the same time."""

    def __init__(
        self,
        function: Callable[..., Any],
        *inputs: Sequence[int | None],
        precision: torch.dtype,
        at_once: int,
        threads: int,
    ) -> None:
        """Compile.

        Args:
            function: takes float32 tensors to a tuple of them, by operations that symbols know.
            inputs: shape of each of its tensors; None where an axis has any length.
            precision: the number format of its arithmetic, bfloat16 or float32.
            at_once: calls at the same time that are worth computing at the same time.
            threads: that all of them share.
        """
        parameters = [opset.parameter([-1 if n is None else n for n in shape], openvino.Type.f32) for shape in inputs]
        # One that is returned twice, as a feature map that is the fine one too, is computed and copied once.
        outputs = function(*map(Symbol, parameters))
        unique = list(dict.fromkeys(outputs))
        self._order = [unique.index(symbol) for symbol in outputs]
        settings = {
            "INFERENCE_PRECISION_HINT": _TYPES[precision],
            "NUM_STREAMS": at_once,
            "INFERENCE_NUM_THREADS": threads,
            # Photos are decoded meanwhile, and the system knows best on which core.
            "ENABLE_CPU_PINNING": False,
            # Photos come in many sizes. What it would keep of them by default grows to hundreds of megabytes, and saves
            # little: a size that is new costs a few milliseconds. This is enough for about 20.
            "CPU_RUNTIME_CACHE_CAPACITY": 1000,
        }
        model = openvino.Model([symbol.node for symbol in unique], parameters)
        self._compiled = openvino.Core().compile_model(model, "CPU", settings)
        self._requests = threading.local()

    def __call__(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Return what the function returns."""
        if not hasattr(self._requests, "own"):
            self._requests.own = self._compiled.create_infer_request()
        found = self._requests.own.infer([tensor.contiguous().numpy() for tensor in tensors], share_inputs=True)
        results = [torch.from_numpy(array) for array in found.values()]
        return tuple(results[i] for i in self._order)


def _array(tensor: Tensor) -> NDArray[np.float32]:
    array: NDArray[np.float32] = tensor.detach().float().contiguous().numpy()
    return array


def _pair(value: int | Sequence[int]) -> list[int]:
    return [value, value] if isinstance(value, int) else list(value)


def _conv2d(
    symbol: Symbol, weight: Tensor, bias: Tensor | None, stride: Any, padding: Any, dilation: Any, groups: int
) -> Any:
    pads = _pair(padding)
    where = _pair(stride), pads, pads, _pair(dilation)
    if groups == 1:
        found = opset.convolution(symbol.node, _array(weight), *where)
    else:
        each = weight.view(groups, -1, *weight.shape[1:])
        found = opset.group_convolution(symbol.node, _array(each), *where)
    return found if bias is None else opset.add(found, _array(bias.view(1, -1, 1, 1)))


def _batch_norm(
    symbol: Symbol, mean: Tensor, variance: Tensor, *, weight: Tensor, bias: Tensor, eps: float, **_: object
) -> Any:
    scale = weight / (variance + eps).sqrt()
    scaled = opset.multiply(symbol.node, _array(scale.view(1, -1, 1, 1)))
    return opset.add(scaled, _array((bias - mean * scale).view(1, -1, 1, 1)))


def _max_pool2d(
    symbol: Symbol, kernel_size: Any, *, stride: Any, padding: Any, dilation: Any, ceil_mode: bool, **_: object
) -> Any:
    pads = _pair(padding)
    where = _pair(stride), _pair(dilation), pads, pads, _pair(kernel_size)
    return opset.max_pool(symbol.node, *where, rounding_type="ceil" if ceil_mode else "floor")


def _nearest(symbol: Symbol, *, size: Symbol, mode: str, **_: object) -> Any:
    return opset.interpolate(
        symbol.node,
        size.node,
        mode,
        "sizes",
        coordinate_transformation_mode="asymmetric",
        nearest_mode="floor",
        axes=[2, 3],
    )


# As torch hands them over, all networks being in evaluation mode.
_OPERATIONS: dict[Callable[..., Any], Callable[..., Any]] = {
    torch.conv2d: _conv2d,
    functional.batch_norm: _batch_norm,
    functional.interpolate: _nearest,
    functional.max_pool2d: _max_pool2d,
    functional.relu: lambda symbol, **_: opset.relu(symbol.node),
    functional.relu6: lambda symbol, **_: opset.clamp(symbol.node, 0, 6),
    functional.hardtanh: lambda symbol, *, min_val, max_val, **_: opset.clamp(symbol.node, min_val, max_val),
    functional.dropout2d: lambda symbol, **_: symbol.node.get_node(),
}
