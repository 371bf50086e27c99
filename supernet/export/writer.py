"""Writes static networks as ONNX files. `parity` compares the files with torch.

`torch.onnx.export` takes seconds for a MobileNetV3. A static network has few types of layers, so one table from layers
to ONNX nodes, `_LAYERS`, writes the same file in tens of milliseconds. This writer writes the blocks and networks of
probe plans as well as downloads, so what is measured is what is exported.
"""

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, fx, nn

from supernet.networks.depthwise import DepthwiseConv2d
from supernet.networks.noise import Classifier
from supernet.networks.pointwise import GlobalAvgPool2d, PointwiseConv2d
from supernet.networks.static import UnevenConv2d

OPSET = 18
IR_VERSION = 8  # the version that came with opset 18; older runtimes on small devices refuse newer versions


class ExportError(ValueError):
    """The network cannot be written as ONNX: a layer has no handler, or its handler does not cover how it is used."""


def to_onnx(network: nn.Module, input_shape: tuple[int, ...], metadata: Mapping[str, str] | None = None) -> bytes:
    """An ONNX file: opset 18, batch norm folded into convolutions, any batch size. Equal networks give equal bytes.

    input_shape: (C, R, R). The file's input "images" is float32 (N, C, R, R), normalised. Its output "logits" is
    (N, classes), or the output of a part of a network.

    Raises:
        ExportError: the network is in training mode, or holds a layer without a handler; the message names it.
    """
    if any(module.training for module in network.modules()):
        raise ExportError("the network is in training mode; call .eval() first")
    try:
        trace = LayerTracer().trace(network)
    except (fx.proxy.TraceError, TypeError) as error:
        raise ExportError(f"{type(network).__name__} is not static: {error}") from error
    writer = _Writer(dict(network.named_modules()))
    with torch.no_grad():
        return writer.run(trace, input_shape, metadata or {})


class LayerTracer(fx.Tracer):
    """Traces a network into functions and layers. The layers in `_LAYERS` stay whole, even those of our own."""

    def is_leaf_module(self, module: nn.Module, qualified_name: str) -> bool:
        """Whether a module is one node of the trace. Otherwise the trace goes into its forward."""
        return type(module) in _LAYERS or super().is_leaf_module(module, qualified_name)


# Values and nodes of the ONNX graph.

Shape = tuple[int | None, ...]  # None: the batch


@dataclass(frozen=True)
class _Value:
    """A tensor of the ONNX graph."""

    name: str
    shape: Shape


class _Writer:
    """Walks a traced network and collects ONNX nodes and constants."""

    def __init__(self, modules: dict[str, nn.Module]) -> None:
        self.modules = modules
        self.nodes: list[Any] = []
        self.constants: dict[str, NDArray[Any]] = {}
        self.node: fx.Node  # the traced node being written
        self.place = "network"  # the part of the network that `node` belongs to; it begins the names of new nodes

    def run(self, trace: fx.Graph, input_shape: tuple[int, ...], metadata: Mapping[str, str]) -> bytes:
        values: dict[fx.Node, Any] = {}
        result = None
        for self.node in trace.nodes:
            args, kwargs = fx.map_arg((self.node.args, self.node.kwargs), values.__getitem__)
            if self.node.op == "placeholder":
                values[self.node] = _Value("images", (None, *input_shape))
            elif self.node.op == "output":
                result = args[0]
            else:
                values[self.node] = self.write(args, kwargs)
        if not isinstance(result, _Value):
            raise ExportError(f"the network returns {type(result).__name__}; one tensor is needed")
        return self.serialise(result, input_shape, metadata)

    def write(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Append the ONNX nodes of the current traced node and return its value."""
        handler: Callable[..., Any] | None
        if self.node.op == "call_module":
            module = self.modules[str(self.node.target)]
            self.place = str(self.node.target).partition(".")[0]
            handler, args, what = _LAYERS.get(type(module)), (module, *args), type(module).__name__
            where, table = f"layer {self.node.target!r}", "_LAYERS"
        else:
            handler, what = _FUNCTIONS.get(self.node.target), getattr(self.node.target, "__name__", self.node.target)
            where, table = f"step {self.node.name!r}", "_FUNCTIONS"
            if handler is None and callable(self.node.target) and not any(isinstance(a, _Value) for a in args):
                return self.node.target(*args, **kwargs)  # arithmetic on sizes, an element of a tuple
        if handler is None:
            raise ExportError(f"{where} ({what}) has no ONNX handler; add one to {table} in supernet/export/writer.py")
        try:
            return handler(self, *args, **kwargs)
        except TypeError as error:
            raise ExportError(f"{where} ({what}) is used in a way its ONNX handler does not cover: {error}") from error

    def emit(self, kind: str, inputs: Sequence[_Value | str], shape: Shape, **attributes: Any) -> _Value:
        """Append one ONNX node with one output."""
        return self.emit_many(kind, inputs, [shape], **attributes)[0]

    def emit_many(
        self, kind: str, inputs: Sequence[_Value | str], shapes: Sequence[Shape], **attributes: Any
    ) -> tuple[_Value, ...]:
        """Append one ONNX node with one output for each shape."""
        from onnx import helper

        name = self.name()
        outputs = [name if len(shapes) == 1 else f"{name}.{i}" for i in range(len(shapes))]
        names = [value.name if isinstance(value, _Value) else value for value in inputs]
        self.nodes.append(helper.make_node(kind, names, outputs, name=name, **attributes))
        return tuple(_Value(output, shape) for output, shape in zip(outputs, shapes, strict=True))

    def name(self) -> str:
        """The name of the next ONNX node; constants of the node add a suffix. `costs.filesize` relies on this form."""
        return f"{self.place}.{len(self.nodes):03}"

    def constant(self, name: str, array: Tensor | NDArray[Any], *, shared: bool = False) -> str:
        """Add a constant of the next node and return its name. A shared constant is written once."""
        name = name if shared else f"{self.name()}.{name}"
        self.constants[name] = array.cpu().numpy() if isinstance(array, Tensor) else array
        return name

    def serialise(self, result: _Value, input_shape: tuple[int, ...], metadata: Mapping[str, str]) -> bytes:
        from onnx import TensorProto, helper

        if result.name == "images" or not self.nodes:
            result = self.emit("Identity", [result], result.shape)
        for node in self.nodes:
            node.input[:] = ["logits" if name == result.name else name for name in node.input]
            node.output[:] = ["logits" if name == result.name else name for name in node.output]
        images = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["N", *input_shape])
        logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, [size or "N" for size in result.shape])
        graph = helper.make_graph(self.nodes, "supple", [images], [logits])
        model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION, producer_name="supple"
        )
        for name, array in self.constants.items():
            tensor = model.graph.initializer.add()
            tensor.name = name
            tensor.data_type = helper.np_dtype_to_tensor_dtype(array.dtype)
            tensor.dims.extend(array.shape)
            tensor.raw_data = array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()
        helper.set_model_props(model, dict(sorted(metadata.items())))
        return bytes(model.SerializeToString(deterministic=True))


# Layers. A handler gets the writer, the module and its inputs, and returns its output.


def _conv(writer: _Writer, conv: nn.Conv2d, x: _Value) -> _Value:
    if isinstance(conv.padding, str) or conv.padding_mode != "zeros":
        raise TypeError("padding must be in pixels and of zeros")
    inputs: list[_Value | str] = [x, writer.constant("weight", conv.weight)]
    if conv.bias is not None:
        inputs.append(writer.constant("bias", conv.bias))
    return writer.emit(
        "Conv", inputs, (x.shape[0], conv.out_channels, *_window(conv, x)),
        kernel_shape=conv.kernel_size, strides=conv.stride, pads=_pads(conv),
        dilations=conv.dilation, group=conv.groups,
    )  # fmt: skip


def _pads(conv: nn.Conv2d) -> tuple[int, ...]:
    """Pixels at the top, left, bottom and right."""
    extra = conv.extra_padding if isinstance(conv, UnevenConv2d) else 0
    return (*conv.padding, *(pixels + extra for pixels in conv.padding))


def _batch_norm(writer: _Writer, norm: nn.BatchNorm2d, x: _Value) -> _Value:
    """Scale and shift, folded into the preceding convolution if nothing else reads the convolution's output."""
    if norm.running_mean is None or norm.running_var is None:
        raise TypeError("batch norm needs running statistics")
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight
    shift = -norm.running_mean * scale
    if norm.bias is not None:
        shift = shift + norm.bias
    (before,) = writer.node.all_input_nodes
    conv = writer.modules.get(str(before.target)) if before.op == "call_module" else None
    if not isinstance(conv, nn.Conv2d) or len(before.users) > 1:
        wide = (-1, 1, 1)
        scaled = writer.emit("Mul", [x, writer.constant("scale", scale.float().view(wide))], x.shape)
        return writer.emit("Add", [scaled, writer.constant("shift", shift.float().view(wide))], x.shape)
    if conv.bias is not None:
        shift = shift + conv.bias * scale
    node = next(node for node in reversed(writer.nodes) if x.name in node.output)
    if conv.bias is None:
        node.input.append(f"{node.name}.bias")
    writer.constants[node.input[1]] = (conv.weight * scale.float().view(-1, 1, 1, 1)).numpy()
    writer.constants[node.input[2]] = shift.float().numpy()
    return x


def _linear(writer: _Writer, linear: nn.Linear, x: _Value) -> _Value:
    if len(x.shape) != 2:
        raise TypeError(f"a linear layer needs (N, features), not {len(x.shape)} dimensions; flatten before it")
    inputs: list[_Value | str] = [x, writer.constant("weight", linear.weight)]
    if linear.bias is not None:
        inputs.append(writer.constant("bias", linear.bias))
    return writer.emit("Gemm", inputs, (x.shape[0], linear.out_features), transB=1)


def _max_pool(writer: _Writer, pool: nn.MaxPool2d, x: _Value) -> _Value:
    if pool.ceil_mode or pool.return_indices:
        raise TypeError("ceil_mode and return_indices are not covered")
    return writer.emit(
        "MaxPool", [x], (*x.shape[:2], *_window(pool, x)),
        kernel_shape=_pair(pool.kernel_size), strides=_pair(pool.stride), pads=_pair(pool.padding) * 2,
        dilations=_pair(pool.dilation),
    )  # fmt: skip


def _avg_pool(writer: _Writer, pool: nn.AvgPool2d, x: _Value) -> _Value:
    """A window that reaches past the edge averages the pixels inside, in torch as in ONNX."""
    kernel, stride, padding = _pair(pool.kernel_size), _pair(pool.stride), _pair(pool.padding)
    if pool.divisor_override is not None or (pool.ceil_mode and (any(padding) or stride != kernel)):
        raise TypeError("divisor_override, and ceil_mode with padding or overlapping windows, are not covered")
    rounded = math.ceil if pool.ceil_mode else math.floor
    settings = zip(_sizes(x)[1:], kernel, stride, padding, strict=True)
    shape = tuple(rounded((side + 2 * p - k) / s) + 1 for side, k, s, p in settings)
    attributes = {} if pool.ceil_mode else {"pads": padding * 2, "count_include_pad": int(pool.count_include_pad)}
    return writer.emit(
        "AveragePool", [x], (*x.shape[:2], *shape),
        kernel_shape=kernel, strides=stride, ceil_mode=int(pool.ceil_mode), **attributes,
    )  # fmt: skip


def _channel_shuffle(writer: _Writer, shuffle: nn.ChannelShuffle, x: _Value) -> _Value:
    channels, *sides = _sizes(x)
    grouped = _reshape(writer, x, -1, shuffle.groups, channels // shuffle.groups, *sides)
    return _reshape(writer, _transpose(writer, grouped, 1, 2), -1, channels, *sides)


def _pair(value: int | tuple[int, ...]) -> tuple[int, ...]:
    return (value, value) if isinstance(value, int) else value


def _window(layer: nn.Conv2d | nn.MaxPool2d, x: _Value) -> tuple[int, ...]:
    """Height and width of the output of a layer with a sliding window."""
    settings = (_pair(value) for value in (layer.kernel_size, layer.stride, layer.padding, layer.dilation))
    extra = layer.extra_padding if isinstance(layer, UnevenConv2d) else 0
    return tuple(
        (side + 2 * padding + extra - dilation * (kernel - 1) - 1) // stride + 1
        for side, kernel, stride, padding, dilation in zip(_sizes(x)[1:], *settings, strict=True)
    )


def _sizes(x: _Value) -> tuple[int, ...]:
    """All sizes except the batch."""
    if x.shape[0] is not None:
        raise TypeError("the first dimension must be the batch")
    return tuple(size for size in x.shape if size is not None)


def _relu(writer: _Writer, x: _Value, inplace: bool = False) -> _Value:
    return writer.emit("Relu", [x], x.shape)


def _relu6(writer: _Writer, x: _Value, inplace: bool = False) -> _Value:
    bounds = [writer.constant(name, np.array(value, np.float32), shared=True) for name, value in (("0", 0), ("6", 6))]
    return writer.emit("Clip", [x, *bounds], x.shape)


def _hard_swish(writer: _Writer, x: _Value, inplace: bool = False) -> _Value:
    return writer.emit("HardSwish", [x], x.shape)  # onnxruntime fuses it into the convolution before it


def _sigmoid(writer: _Writer, x: _Value) -> _Value:
    return writer.emit("Sigmoid", [x], x.shape)


def _silu(writer: _Writer, x: _Value, inplace: bool = False) -> _Value:
    return writer.emit("Mul", [x, _sigmoid(writer, x)], x.shape)


def _gelu(writer: _Writer, x: _Value, approximate: str = "none") -> _Value:
    """x / 2 * (1 + erf(x / sqrt(2))): this opset has no GELU, and onnxruntime fuses these nodes into one."""
    if approximate != "none":
        raise TypeError(f"the approximation {approximate!r} is not covered")
    values = (("sqrt2", math.sqrt(2)), ("1", 1), ("half", 0.5))
    root, one, half = (writer.constant(name, np.array(value, np.float32), shared=True) for name, value in values)
    erf = writer.emit("Erf", [writer.emit("Div", [x, root], x.shape)], x.shape)
    product = writer.emit("Mul", [x, writer.emit("Add", [erf, one], x.shape)], x.shape)
    return writer.emit("Mul", [product, half], x.shape)


def _hard_sigmoid(writer: _Writer, x: _Value, inplace: bool = False) -> _Value:
    return writer.emit("HardSigmoid", [x], x.shape, alpha=1 / 6, beta=0.5)


def _global_pool(writer: _Writer, x: _Value, size: Any = 1) -> _Value:
    if size not in (1, (1, 1)):
        raise TypeError(f"adaptive average pooling to {size}; only to 1 is covered")
    return writer.emit("GlobalAveragePool", [x], (*x.shape[:2], 1, 1))


def _mean(writer: _Writer, x: _Value, dim: Any = None, keepdim: bool = False) -> _Value:
    if len(x.shape) != 4 or dim is None or sorted(axis % 4 for axis in dim) != [2, 3]:
        raise TypeError(f"mean over {dim}; only over height and width, (2, 3), is covered")
    pooled = _global_pool(writer, x)
    return pooled if keepdim else _flatten(writer, pooled, 1)


def _flatten(writer: _Writer, x: _Value, start_dim: int = 0, end_dim: int = -1) -> _Value:
    if start_dim != 1 or end_dim not in (-1, len(x.shape) - 1):
        raise TypeError(f"flatten from {start_dim} to {end_dim}; only from 1 to the last is covered")
    return writer.emit("Flatten", [x], (x.shape[0], math.prod(_sizes(x))))


def _elementwise(kind: str) -> Callable[..., _Value]:
    def handler(writer: _Writer, x: _Value, y: _Value) -> _Value:
        if not isinstance(x, _Value) or not isinstance(y, _Value) or len(x.shape) != len(y.shape):
            raise TypeError("two tensors with the same number of dimensions are needed")
        return writer.emit(kind, [x, y], (x.shape[0], *map(max, _sizes(x)[0:], _sizes(y)[0:])))

    return handler


def _concat(writer: _Writer, values: Sequence[_Value], dim: int = 0) -> _Value:
    shape = list(values[0].shape)
    shape[dim] = sum(_sizes(value)[dim - 1] for value in values)
    return writer.emit("Concat", values, tuple(shape), axis=dim)


def _chunk(writer: _Writer, x: _Value, chunks: int, dim: int = 0) -> tuple[_Value, ...]:
    size = _sizes(x)[dim - 1]
    if size % chunks:
        raise TypeError(f"{size} channels in {chunks} chunks of unequal size")
    shape = (*x.shape[:dim], size // chunks, *x.shape[dim + 1 :])
    return writer.emit_many("Split", [x], [shape] * chunks, axis=dim, num_outputs=chunks)


def _reshape(writer: _Writer, x: _Value, *shape: Any) -> _Value:
    sizes = shape[0] if len(shape) == 1 and isinstance(shape[0], tuple | list) else shape
    if sizes[0] not in (None, -1) or -1 in sizes[1:] or math.prod(sizes[1:]) != math.prod(_sizes(x)):
        raise TypeError(f"reshape of {x.shape} to {sizes}; the batch must stay first, every other size known")
    target = writer.constant("shape", np.array([0, *sizes[1:]], np.int64))  # 0: as in the input
    return writer.emit("Reshape", [x, target], (None, *sizes[1:]))


def _transpose(writer: _Writer, x: _Value, first: int, second: int) -> _Value:
    order = list(range(len(x.shape)))
    order[first], order[second] = order[second], order[first]
    return writer.emit("Transpose", [x], tuple(x.shape[axis] for axis in order), perm=order)


def _size(writer: _Writer, x: _Value, dim: int | None = None) -> Any:
    return x.shape if dim is None else x.shape[dim]


def _attribute(writer: _Writer, x: Any, name: str) -> Any:
    if name != "shape":
        raise TypeError(f"attribute {name!r}; only shape is covered")
    return x.shape


def _same(writer: _Writer, x: _Value) -> _Value:
    return x


def _plain(function: Callable[..., _Value]) -> Callable[..., _Value]:
    """The handler of a module without settings, made from the handler of its function."""
    return lambda writer, module, x: function(writer, x)


_LAYERS: dict[type[nn.Module], Callable[..., Any]] = {
    **dict.fromkeys((nn.Conv2d, DepthwiseConv2d, PointwiseConv2d, UnevenConv2d), _conv),
    nn.BatchNorm2d: _batch_norm,
    **dict.fromkeys((nn.Linear, Classifier), _linear),
    nn.ReLU: _plain(_relu),
    nn.ReLU6: _plain(_relu6),
    nn.Hardswish: _plain(_hard_swish),
    nn.Hardsigmoid: _plain(_hard_sigmoid),
    nn.Sigmoid: _plain(_sigmoid),
    nn.SiLU: _plain(_silu),
    nn.GELU: lambda writer, gelu, x: _gelu(writer, x, gelu.approximate),
    **dict.fromkeys(
        (nn.AdaptiveAvgPool2d, GlobalAvgPool2d), lambda writer, pool, x: _global_pool(writer, x, pool.output_size)
    ),
    nn.MaxPool2d: _max_pool,
    nn.AvgPool2d: _avg_pool,
    nn.ChannelShuffle: _channel_shuffle,
    nn.Flatten: lambda writer, flatten, x: _flatten(writer, x, flatten.start_dim, flatten.end_dim),
    nn.Identity: _plain(_same),
    nn.Dropout: _plain(_same),
}

# Functions; methods are listed by name.
_FUNCTIONS: dict[Any, Callable[..., Any]] = {
    **dict.fromkeys((operator.add, operator.iadd, torch.add, "add", "add_"), _elementwise("Add")),
    **dict.fromkeys((operator.mul, operator.imul, torch.mul, "mul", "mul_"), _elementwise("Mul")),
    **dict.fromkeys((F.relu, torch.relu, "relu"), _relu),
    F.relu6: _relu6,
    F.hardswish: _hard_swish,
    F.hardsigmoid: _hard_sigmoid,
    **dict.fromkeys((F.sigmoid, torch.sigmoid, "sigmoid"), _sigmoid),
    F.silu: _silu,
    F.gelu: _gelu,
    F.adaptive_avg_pool2d: _global_pool,
    **dict.fromkeys((torch.mean, "mean"), _mean),
    **dict.fromkeys((torch.flatten, "flatten"), _flatten),
    torch.cat: _concat,
    **dict.fromkeys((torch.chunk, "chunk"), _chunk),
    **dict.fromkeys((torch.reshape, "reshape", "view"), _reshape),
    **dict.fromkeys((torch.transpose, "transpose"), _transpose),
    "contiguous": _same,
    "size": _size,
    getattr: _attribute,
}
