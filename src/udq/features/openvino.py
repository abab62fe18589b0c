"""A function of torch, compiled by OpenVINO: the same call with the same results but for rounding.

The function is called once on symbols, which stand in for tensors and record each operation in a graph of OpenVINO.
Weights are copied into the graph; after they change, it has to be compiled again. OpenVINO's own converter
(``convert_model`` of ``torch.export.export``) gives the same graph, bit by bit in its results, but takes 7.7 s of CPU
time for EfficientNet-Lite0 where this takes 0.15 s.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from udq.errors import UdqError

if TYPE_CHECKING:
    import openvino

_PRECISIONS = {torch.float32: "f32", torch.bfloat16: "bf16"}
_loading = threading.Lock()


def library() -> Any:
    """Import OpenVINO and return its module, without the usage reports that its import sends."""
    with _loading:
        with _without_reports():
            import openvino
            import openvino.opset15
        # Two threads that convert their first array at the same time can deadlock: one holds a lock of the bindings
        # and waits for the interpreter's lock, which the other one holds.
        _ = openvino.Tensor(np.zeros(1, np.float32), shared_memory=True).data
    return openvino


@contextmanager
def _without_reports() -> Iterator[None]:
    """Hide the package that OpenVINO reports its use with, unless the user has imported it.

    Importing OpenVINO sends an event over the network and writes to the user's home folder, if that package is there.
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


def _opset() -> Any:
    return sys.modules["openvino.opset15"]


class Symbol:
    """A tensor of the graph, without values.

    Functions of torch arrive by the protocol ``__torch_function__``, methods of tensors by their names.
    """

    def __init__(self, node: openvino.Node) -> None:
        self.node = node.output(0)

    @classmethod
    def __torch_function__(
        cls, function: Callable[..., Any], types: Any, arguments: Sequence[Any] = (), named: Any = None
    ) -> Symbol:
        if function not in _OPERATIONS:
            known = ", ".join(sorted(getattr(each, "__name__", str(each)) for each in _OPERATIONS))
            raise UdqError(
                f"expected operations that udq can compile with OpenVINO ({known}), "
                f"found {getattr(function, '__name__', function)}; set the environment variable UDQ_NETWORK=torch"
            )
        return cls(_OPERATIONS[function](*arguments, **(named or {})))

    @property
    def shape(self) -> Symbol:
        """The lengths of its axes, a symbol of (axes,) integers."""
        return Symbol(_opset().shape_of(self.node))

    def __getitem__(self, part: int | slice | None) -> Symbol:
        if part is None:
            return Symbol(_opset().unsqueeze(self.node, 0))
        if isinstance(part, int):
            return Symbol(_opset().gather(self.node, part, 0))
        return Symbol(_opset().slice(self.node, [part.start], [2**31 - 1], [1], [0]))

    def __add__(self, other: Symbol) -> Symbol:
        return Symbol(_opset().add(self.node, other.node))

    def dim(self) -> int:
        """Return the number of axes."""
        return int(self.node.get_partial_shape().rank.get_length())

    def float(self) -> Symbol:
        """Cast to float32."""
        return Symbol(_opset().convert(self.node, "f32"))

    def to(self, *_: object, **__: object) -> Self:
        """Return the symbol itself: OpenVINO chooses device and precision."""
        return self


class Compiled:
    """A compiled function of tensors; safe to call from several threads at the same time."""

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
            function: takes float32 tensors and returns a tuple of them; uses no operations but those of ``Symbol``.
            inputs: shape of each tensor; None for an axis of any length.
            precision: number format of the arithmetic, bfloat16 or float32.
            at_once: number of concurrent calls that are computed in parallel.
            threads: number of threads that all calls share.

        Raises:
            ImportError: OpenVINO cannot be imported.
            UdqError: the function uses another operation.
        """
        openvino = library()
        parameters = [
            _opset().parameter([-1 if n is None else n for n in shape], openvino.Type.f32) for shape in inputs
        ]
        # A symbol that is returned twice (a feature map that is the fine map as well) is computed and copied once.
        outputs = function(*map(Symbol, parameters))
        unique = list(dict.fromkeys(outputs))
        self._order = [unique.index(symbol) for symbol in outputs]
        settings = {
            "INFERENCE_PRECISION_HINT": getattr(openvino.Type, _PRECISIONS[precision]),
            "NUM_STREAMS": at_once,
            "INFERENCE_NUM_THREADS": threads,
            # Other processes decode photos at the same time: the system schedules best without pinned threads.
            "ENABLE_CPU_PINNING": False,
            # Photos have many sizes. By default, the cache of prepared sizes grows to hundreds of megabytes and saves
            # little: a new size costs a few milliseconds. This capacity is enough for about 20 sizes.
            "CPU_RUNTIME_CACHE_CAPACITY": 1000,
        }
        model = openvino.Model([symbol.node for symbol in unique], parameters)
        self._compiled = openvino.Core().compile_model(model, "CPU", settings)
        self._requests = threading.local()

    def __call__(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Compute the function."""
        if not hasattr(self._requests, "own"):
            self._requests.own = self._compiled.create_infer_request()
        outputs = self._requests.own.infer([tensor.contiguous().numpy() for tensor in tensors], share_inputs=True)
        results = [torch.from_numpy(array) for array in outputs.values()]
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
        result = _opset().convolution(symbol.node, _array(weight), *where)
    else:
        each = weight.view(groups, -1, *weight.shape[1:])
        result = _opset().group_convolution(symbol.node, _array(each), *where)
    return result if bias is None else _opset().add(result, _array(bias.view(1, -1, 1, 1)))


def _batch_norm(
    symbol: Symbol, mean: Tensor, variance: Tensor, *, weight: Tensor, bias: Tensor, eps: float, **_: object
) -> Any:
    scale = weight / (variance + eps).sqrt()
    scaled = _opset().multiply(symbol.node, _array(scale.view(1, -1, 1, 1)))
    return _opset().add(scaled, _array((bias - mean * scale).view(1, -1, 1, 1)))


def _max_pool2d(
    symbol: Symbol, kernel_size: Any, *, stride: Any, padding: Any, dilation: Any, ceil_mode: bool, **_: object
) -> Any:
    pads = _pair(padding)
    where = _pair(stride), _pair(dilation), pads, pads, _pair(kernel_size)
    return _opset().max_pool(symbol.node, *where, rounding_type="ceil" if ceil_mode else "floor")


def _nearest(symbol: Symbol, *, size: Symbol, mode: str, **_: object) -> Any:
    return _opset().interpolate(
        symbol.node,
        size.node,
        mode,
        "sizes",
        coordinate_transformation_mode="asymmetric",
        nearest_mode="floor",
        axes=[2, 3],
    )


# Functions as torch dispatches them; all networks are in evaluation mode.
_OPERATIONS: dict[Callable[..., Any], Callable[..., Any]] = {
    torch.conv2d: _conv2d,
    functional.batch_norm: _batch_norm,
    functional.interpolate: _nearest,
    functional.max_pool2d: _max_pool2d,
    functional.relu: lambda symbol, **_: _opset().relu(symbol.node),
    functional.relu6: lambda symbol, **_: _opset().clamp(symbol.node, 0, 6),
    functional.hardtanh: lambda symbol, *, min_val, max_val, **_: _opset().clamp(symbol.node, min_val, max_val),
    functional.dropout2d: lambda symbol, **_: symbol.node.get_node(),
}
