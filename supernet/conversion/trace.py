"""What a network runs on an image, as a graph of few kinds of steps.

torch.fx traces the network. The trace then runs once on an image, so that sizes computed on the way, as in
`x.view(x.size(0), -1)`, are numbers. Anything that is not covered is refused by the name of its node.
"""

import copy
import math
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torchvision.ops import StochasticDepth
from torchvision.ops.stochastic_depth import stochastic_depth

from supernet.networks.depthwise import DepthwiseConv2d
from supernet.networks.noise import Classifier
from supernet.networks.pointwise import GlobalAvgPool2d, PointwiseConv2d
from supernet.operators import Activation

IMAGES = 2  # run through the trace; not 1, so that the batch is told from other sizes
HALVES = ((2,), (3,))  # dimensions of two means, one after the other, that make a mean over all positions

StepKind = Literal[
    "input",
    "conv",
    "linear",
    "norm",
    "activation",
    "pool",
    "max_pool",
    "avg_pool",
    "flatten",
    "add",
    "multiply",
    "add_number",
    "multiply_number",
    "half_mean",
    "pad",
]


class ConversionError(ValueError):
    """A network cannot be converted. The message names the node and says what to do."""


@dataclass(frozen=True, eq=False)
class Step:
    """One step of a traced network.

    name: the layer's path in the network, or the node's name. inputs: the steps that it reads. shape: of its output,
    without the batch. layer: the module with its weights. activation: which, for an activation. number: the constant
    that it adds or multiplies with. window: kernel size, stride and padding of a pooling step. padding: pixels of zeros
    at the top and left, and at the bottom and right, of a convolution or of a step that only pads.
    """

    name: str
    kind: StepKind
    inputs: tuple["Step", ...]
    shape: tuple[int, ...]
    layer: nn.Module | None = None
    activation: Activation = None
    number: float = 0.0
    window: tuple[int, int, int] = (1, 1, 0)
    padding: tuple[int, int] = (0, 0)

    @property
    def side(self) -> int:
        """Height and width of the output, pixels; 1 for a vector of channels."""
        return self.shape[1] if len(self.shape) == 3 else 1


@dataclass(frozen=True)
class Trace:
    """A traced network. output: its last step. in_channels: of the image.

    remarks: what holds at the traced image size and was taken to hold at others. fixed_size: the network runs at the
    traced image size alone.
    """

    output: Step
    in_channels: int
    remarks: tuple[str, ...]
    fixed_size: bool


@torch.no_grad()
def trace(network: nn.Module, image_size: int) -> Trace:
    """Trace a network on images of `image_size` pixels; the image's channels are the first convolution's.

    Raises:
        ConversionError: a step cannot be traced or is not covered.
    """
    network = copy.deepcopy(network).eval()
    tracer = _Tracer()
    try:
        graph = tracer.trace(network)
    except (fx.proxy.TraceError, TypeError, ValueError, RuntimeError, NotImplementedError, AttributeError) as error:
        place = f"layer {tracer.path!r}" if tracer.path else f"the forward of {type(network).__name__}"
        raise ConversionError(
            f"{place} cannot be traced: {str(error).splitlines()[0]}. What it runs depends on the values of tensors or "
            "is no torch code; rewrite it without such control flow"
        ) from error
    first = next((module for module in network.modules() if isinstance(module, nn.Conv2d)), None)
    if first is None:
        raise ConversionError(f"{type(network).__name__} has no convolution (torch.nn.Conv2d), so nothing is elastic")
    needed = [node.name for node in graph.nodes if node.op == "placeholder" and not node.args]
    if len(needed) != 1:
        raise ConversionError(
            f"forward needs {len(needed)} inputs, {' and '.join(needed)}; give all but the images a default"
        )
    recorder = _Recorder(network, graph)
    parameter = next(network.parameters())
    image = torch.zeros(IMAGES, first.in_channels, image_size, image_size, dtype=parameter.dtype)
    try:
        recorder.run(image)
    except ConversionError:
        raise
    except Exception as error:
        raise ConversionError(
            f"the network does not run on images of {first.in_channels} x {image_size} x {image_size} pixels, at "
            f"{recorder.place}: {str(error).splitlines()[0]}; give another image size"
        ) from error
    return recorder.finished(first.in_channels)


class _Tracer(fx.Tracer):
    """Keeps whole the layers that `_LAYERS` covers, and all of torch's own. path: of the module entered last."""

    path = ""

    def is_leaf_module(self, module: nn.Module, qualified_name: str) -> bool:
        return _covered_class(module) is not None or super().is_leaf_module(module, qualified_name)

    def call_module(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        outer, self.path = self.path, self.path_of_module(module)
        result = super().call_module(module, *args, **kwargs)
        self.path = outer  # after an exception it stays, for the message
        return result


class _Recorder(fx.Interpreter):
    """Runs a trace and records its steps."""

    def __init__(self, network: nn.Module, graph: fx.Graph) -> None:
        super().__init__(network, garbage_collect_values=False, graph=graph)
        self.extra_traceback = False
        self.steps: dict[fx.Node, Step] = {}
        self.remarks: list[str] = []
        self.fixed_size = False
        self.output: Step
        self.place = ""  # the node that runs, for messages
        self.node: fx.Node

    def run_node(self, node: fx.Node) -> Any:
        self.node, self.place = node, f"node {node.name!r}"
        if node.op == "call_module":
            self.place += f" (layer {node.target!r}, {type(self.fetch_attr(str(node.target))).__name__})"
        elif node.op in ("call_function", "call_method"):
            self.place += f" ({getattr(node.target, '__name__', node.target)}{_module_of(node)})"
        value = super().run_node(node)
        if node.op == "placeholder" and not node.args:
            self.steps[node] = Step(node.name, "input", (), tuple(value.shape[1:]))
        elif node.op == "output":
            (result,) = node.args
            if not isinstance(result, fx.Node) or result not in self.steps:
                raise self.refusal("returns more than one tensor", "return the logits alone")
            self.output = self.steps[result]
        elif any(argument in self.steps for argument in node.all_input_nodes) and _has_tensors(value):
            self.steps[node] = self.record(node, value)
        return value

    def finished(self, in_channels: int) -> Trace:
        """The whole trace, after the run."""
        return Trace(self.output, in_channels, tuple(self.remarks), self.fixed_size)

    def record(self, node: fx.Node, value: Any) -> Step:
        """The step of a node that makes a tensor of tensors."""
        args, kwargs = self.fetch_args_kwargs_from_env(node)
        handler: Callable[..., Step] | None
        if node.op == "call_module":
            layer = self.fetch_attr(str(node.target))
            found = _covered_class(layer)
            handler, args, what = (_LAYERS[found] if found else None), (layer, *args), type(layer).__name__
        else:
            handler, what = _FUNCTIONS.get(node.target), str(getattr(node.target, "__name__", node.target))
        if handler is None:
            raise self.refusal("is not covered", _ADVICE.get(re.sub(r"(\dd)?_*$", "", what.lower()), _GENERAL_ADVICE))
        weights = node.args[1:3] if node.target is F.conv2d else ()
        for argument in node.all_input_nodes:
            if argument not in self.steps and argument not in weights and isinstance(self.env[argument], Tensor):
                raise self.refusal(
                    f"reads the tensor {argument.target!r} of the network directly", "use a layer of torch.nn instead"
                )
        if not isinstance(value, Tensor):
            raise self.refusal("makes several tensors", "splitting channels is not covered")
        try:
            return handler(self, value, *args, **kwargs)
        except TypeError as error:
            raise self.refusal("is used in a way that is not covered", f"its arguments are not: {error}") from error

    def refusal(self, fault: str, advice: str) -> ConversionError:
        """The error for the current node."""
        return ConversionError(f"{self.place} {fault}; {advice}")

    @property
    def inputs(self) -> tuple[Step, ...]:
        """The steps that the current node reads."""
        return tuple(self.steps[node] for node in self.node.all_input_nodes if node in self.steps)

    def step(self, value: Tensor, kind: StepKind, **fields: Any) -> Step:
        """A step of the current node. value: what it returned."""
        name = str(self.node.target) if self.node.op == "call_module" else self.node.name
        fields = {"inputs": self.inputs, **fields}
        return Step(name, kind, shape=tuple(value.shape[1:]), **fields)


def _module_of(node: fx.Node) -> str:
    """Where in the network's modules a function is called, for messages."""
    stack = node.meta.get("nn_module_stack") or {}
    paths = [entry[0] if isinstance(entry, tuple) else key for key, entry in stack.items()]
    return f" in layer {paths[-1]!r}" if paths and paths[-1] else ""


def _has_tensors(value: Any) -> bool:
    return isinstance(value, Tensor) or (
        isinstance(value, tuple | list) and not isinstance(value, torch.Size) and any(map(_has_tensors, value))
    )


def _covered_class(module: nn.Module) -> type[nn.Module] | None:
    """The class in `_LAYERS` whose forward a module runs; None if it has another."""
    for cls in type(module).__mro__:
        if cls in _LAYERS:
            same = all(getattr(type(module), name) is getattr(cls, name) for name in _FORWARDS if hasattr(cls, name))
            return cls if same else None
    return None


_FORWARDS = ("forward", "_conv_forward")
_GENERAL_ADVICE = (
    "the layers covered are convolution, batch norm, linear, pooling, add, multiply, the usual activations, dropout "
    "and flatten; replace it by these"
)
_ADVICE = {
    "layernorm": "layer norm cannot share its statistics over widths; use batch norm",
    "layer_norm": "layer norm cannot share its statistics over widths; use batch norm",
    "groupnorm": "group norm cannot share its statistics over widths; use batch norm",
    "group_norm": "group norm cannot share its statistics over widths; use batch norm",
    "instancenorm": "instance norm is not covered; use batch norm",
    "multiheadattention": "attention is not covered; convert the convolutional part alone",
    "scaled_dot_product_attention": "attention is not covered; convert the convolutional part alone",
    "matmul": "attention is not covered; convert the convolutional part alone",
    "bmm": "attention is not covered; convert the convolutional part alone",
    "cat": "concatenated channels cannot be elastic; use a network that adds its branches",
    "concat": "concatenated channels cannot be elastic; use a network that adds its branches",
    "conv": "a convolution without a layer of its own is not covered; use torch.nn.Conv2d",
    "log_softmax": "return the logits, and apply the softmax outside",
    "softmax": "return the logits, and apply the softmax outside",
    "logsoftmax": "return the logits, and apply the softmax outside",
}


# Handlers: the recorder, the output of the node, the layer if it is one, and the node's own arguments.


def _single(value: Any, what: str) -> int:
    """One number of a pair that must be equal."""
    pair = (value,) if isinstance(value, int) else tuple(value)
    if len(set(pair)) != 1:
        raise TypeError(f"{what} is {pair}; height and width must be equal")
    return int(pair[0])


def _conv(recorder: _Recorder, value: Tensor, conv: nn.Conv2d, x: Tensor) -> Step:
    if isinstance(conv.padding, str) or conv.padding_mode != "zeros":
        raise TypeError("padding must be in pixels and of zeros")
    return _conv_step(recorder, value, conv, str(recorder.node.target), _single(conv.padding, "padding"))


def _conv_step(recorder: _Recorder, value: Tensor, conv: nn.Conv2d, name: str, pixels: int) -> Step:
    """A convolution and the padding before it. pixels: of its own padding."""
    for setting in ("kernel_size", "stride", "dilation"):
        _single(getattr(conv, setting), setting)
    (x,) = (step for step in recorder.inputs)
    before, after = x.padding if x.kind == "pad" else (0, 0)
    inputs = x.inputs if x.kind == "pad" else (x,)
    padding = (before + pixels, after + pixels)
    return Step(name, "conv", inputs, tuple(value.shape[1:]), layer=conv, padding=padding)


def _functional_conv(
    recorder: _Recorder, value: Tensor, x: Tensor, weight: Any, bias: Any = None, stride: Any = 1, padding: Any = 0,
    dilation: Any = 1, groups: int = 1,
) -> Step:  # fmt: skip
    """`conv2d` inside the forward of a subclass of `torch.nn.Conv2d`, with the layer's own weights."""
    node = recorder.node.args[1] if len(recorder.node.args) > 1 else None
    path = str(node.target).rpartition(".")[0] if isinstance(node, fx.Node) and node.op == "get_attr" else ""
    conv = recorder.module.get_submodule(path) if path else None
    if not isinstance(conv, nn.Conv2d) or weight is not conv.weight or bias is not conv.bias:
        raise recorder.refusal("runs a convolution without a layer of its own", _ADVICE["conv"])
    pairs = [tuple(np.broadcast_to(setting, 2).tolist()) for setting in (stride, dilation)]
    if [conv.stride, conv.dilation] != pairs or conv.groups != groups:
        raise TypeError("stride, dilation and groups differ from the layer's")
    return _conv_step(recorder, value, conv, path, _single(padding, "padding"))


def _pad(
    recorder: _Recorder, output: Tensor, x: Tensor, pad: Any, mode: str = "constant", value: float | None = None
) -> Step:
    if mode != "constant" or value not in (None, 0) or len(pad) != 4 or pad[:2] != pad[2:] or not 0 <= pad[0] <= pad[1]:
        raise TypeError(f"padding by {tuple(pad)}; only zeros, equal at the top and left and at the bottom and right")
    return recorder.step(output, "pad", padding=(int(pad[0]), int(pad[1])))


def _pad_layer(recorder: _Recorder, value: Tensor, pad: nn.ZeroPad2d, x: Tensor) -> Step:
    return _pad(recorder, value, x, tuple(pad.padding))


def _linear(recorder: _Recorder, value: Tensor, linear: nn.Linear, x: Tensor) -> Step:
    if x.ndim != 2:
        raise TypeError(f"a linear layer reads {x.ndim} dimensions, not (N, features)")
    return recorder.step(value, "linear", layer=linear)


def _norm(recorder: _Recorder, value: Tensor, norm: nn.BatchNorm2d, x: Tensor) -> Step:
    if norm.running_mean is None or norm.weight is None:
        raise TypeError("batch norm needs running statistics, and a scale and a shift (affine=True)")
    return recorder.step(value, "norm", layer=norm)


def _activation(name: Activation) -> Callable[..., Step]:
    def handler(recorder: _Recorder, value: Tensor, *args: Any, **kwargs: Any) -> Step:
        return recorder.step(value, "activation", activation=name)

    return handler


def _relu6(recorder: _Recorder, value: Tensor, *args: Any, **kwargs: Any) -> Step:
    return recorder.step(value, "activation", activation="relu6")


def _gelu(recorder: _Recorder, value: Tensor, *args: Any, **kwargs: Any) -> Step:
    approximate = args[0].approximate if isinstance(args[0], nn.GELU) else kwargs.get("approximate", "none")
    if approximate != "none":
        raise TypeError(f"GELU's approximation {approximate!r}; use GELU itself")
    return recorder.step(value, "activation", activation="gelu")


def _passed_on(recorder: _Recorder, value: Tensor, *args: Any, **kwargs: Any) -> Step:
    return recorder.inputs[0]


def _dropout(
    recorder: _Recorder, value: Tensor, x: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
) -> Step:
    if training:
        raise TypeError("dropout runs in evaluation, too; pass training=self.training")
    return recorder.inputs[0]


def _stochastic_depth(
    recorder: _Recorder, value: Tensor, x: Tensor, p: float, mode: str, training: bool = True
) -> Step:
    return _dropout(recorder, value, x, p, training)


def _global_pool(recorder: _Recorder, value: Tensor, x: Tensor, size: Any) -> Step:
    if tuple(value.shape[2:]) == (1, 1):
        return recorder.step(value, "pool")
    if value.shape == x.shape:
        recorder.fixed_size = True
        return recorder.inputs[0]
    raise TypeError(f"adaptive pooling of {tuple(x.shape[2:])} to {tuple(value.shape[2:])}; only to 1 is covered")


def _adaptive_pool_layer(recorder: _Recorder, value: Tensor, pool: nn.AdaptiveAvgPool2d, x: Tensor) -> Step:
    return _global_pool(recorder, value, x, pool.output_size)


def _max_pool(
    recorder: _Recorder, value: Tensor, x: Tensor, kernel_size: Any, stride: Any = None, padding: Any = 0,
    dilation: Any = 1, ceil_mode: bool = False, return_indices: bool = False,
) -> Step:  # fmt: skip
    window = _window(kernel_size, stride, padding)
    if ceil_mode or return_indices or _single(dilation, "dilation") != 1:
        raise TypeError("ceil_mode, return_indices and dilation of max pooling are not covered")
    return recorder.step(value, "max_pool", window=window)


def _max_pool_layer(recorder: _Recorder, value: Tensor, pool: nn.MaxPool2d, x: Tensor) -> Step:
    settings = pool.kernel_size, pool.stride, pool.padding, pool.dilation, pool.ceil_mode, pool.return_indices
    return _max_pool(recorder, value, x, *settings)


def _avg_pool(
    recorder: _Recorder, value: Tensor, x: Tensor, kernel_size: Any, stride: Any = None, padding: Any = 0,
    ceil_mode: bool = False, count_include_pad: bool = True, divisor_override: int | None = None,
) -> Step:  # fmt: skip
    kernel, stride, pixels = _window(kernel_size, stride, padding)
    if divisor_override is not None:
        raise TypeError("divisor_override of average pooling is not covered")
    if kernel == x.shape[2] == x.shape[3] and not pixels:
        recorder.remarks.append(
            f"{recorder.node.name} averages all {kernel} x {kernel} positions, and does so at other image sizes"
        )
        return recorder.step(value, "pool")
    if (ceil_mode and (pixels or kernel != stride)) or (pixels and not count_include_pad):
        raise TypeError("ceil_mode with padding or overlapping windows, and count_include_pad=False, are not covered")
    return recorder.step(value, "avg_pool", window=(kernel, stride, -1 if ceil_mode else pixels))


def _avg_pool_layer(recorder: _Recorder, value: Tensor, pool: nn.AvgPool2d, x: Tensor) -> Step:
    settings = pool.kernel_size, pool.stride, pool.padding, pool.ceil_mode, pool.count_include_pad
    return _avg_pool(recorder, value, x, *settings, pool.divisor_override)


def _window(kernel_size: Any, stride: Any, padding: Any) -> tuple[int, int, int]:
    kernel = _single(kernel_size, "kernel_size")
    return kernel, kernel if stride in (None, ()) else _single(stride, "stride"), _single(padding, "padding")


def _mean(recorder: _Recorder, value: Tensor, x: Tensor, dim: Any = None, keepdim: bool = False, **other: Any) -> Step:
    dims = () if dim is None else tuple(axis % x.ndim for axis in ((dim,) if isinstance(dim, int) else dim))
    if x.ndim == 4 and sorted(dims) == [2, 3]:
        return recorder.step(value, "pool")
    if x.ndim == 4 and dims in HALVES and not keepdim:
        return recorder.step(value, "half_mean")
    if x.ndim == 3 and dims == (2,) and not keepdim and recorder.inputs[0].kind == "half_mean":
        return recorder.step(value, "pool", inputs=recorder.inputs[0].inputs)
    raise TypeError(f"mean over {dim}; only over height and width, (2, 3), is covered")


def _reshaped(recorder: _Recorder, value: Tensor, x: Tensor, *args: Any, **kwargs: Any) -> Step:
    """A change of shape that keeps channels: none, between (N, C) and (N, C, 1, 1), or flattening (N, C, H, W)."""
    if x.shape == value.shape:
        return recorder.inputs[0]
    if x.shape[:2] == value.shape[:2] and {*x.shape[2:], *value.shape[2:]} <= {1} and value.ndim in (2, 4):
        return recorder.step(value, "flatten")
    if value.ndim == 2 and value.shape[0] == x.shape[0]:
        recorder.fixed_size = True
        return recorder.step(value, "flatten")
    raise TypeError(f"a change of shape from {tuple(x.shape)} to {tuple(value.shape)}; only flattening is covered")


def _expanded(recorder: _Recorder, value: Tensor, x: Tensor, *args: Any, **kwargs: Any) -> Step:
    """A map of one pixel repeated for all pixels: the multiplication that follows does that by itself."""
    if x.shape[:2] != value.shape[:2] or tuple(x.shape[2:]) != (1, 1):
        raise TypeError(f"an expansion from {tuple(x.shape)} to {tuple(value.shape)}; only of one pixel is covered")
    return recorder.step(x, "flatten", inputs=recorder.inputs[:1])


def _add(recorder: _Recorder, value: Tensor, x: Any, y: Any, *, alpha: float = 1) -> Step:
    if alpha != 1:
        raise TypeError("alpha of an addition is not covered")
    if isinstance(x, Tensor) and isinstance(y, Tensor):
        return recorder.step(value, "add", inputs=_both(recorder))
    return recorder.step(value, "add_number", number=float(y if isinstance(x, Tensor) else x))


def _both(recorder: _Recorder) -> tuple[Step, Step]:
    """The steps of both operands, which may be one step."""
    first, second = (recorder.steps[argument] for argument in recorder.node.args[:2])
    return first, second


def _multiply(recorder: _Recorder, value: Tensor, x: Any, y: Any) -> Step:
    if not (isinstance(x, Tensor) and isinstance(y, Tensor)):
        return _times(recorder, value, float(y if isinstance(x, Tensor) else x))
    first, second = _both(recorder)
    for whole, gate in ((first, second), (second, first)):
        if gate.kind == "activation" and gate.inputs == (whole,) and gate.activation in ("sigmoid", "h_sigmoid"):
            name: Activation = "silu" if gate.activation == "sigmoid" else "h_swish"
            return recorder.step(value, "activation", activation=name, inputs=(whole,))
    return recorder.step(value, "multiply", inputs=(first, second))


def _divide(recorder: _Recorder, value: Tensor, x: Any, y: Any) -> Step:
    if not isinstance(x, Tensor) or isinstance(y, Tensor):
        raise TypeError("a division by a tensor is not covered")
    return _times(recorder, value, 1 / float(y))


def _times(recorder: _Recorder, value: Tensor, number: float) -> Step:
    """A product with a number. relu6(x + 3) / 6 is the hard sigmoid of x, and x * relu6(x + 3) / 6 its h-swish."""
    (x,) = recorder.inputs
    if math.isclose(number, 1 / 6, rel_tol=1e-6):
        if (shifted := _clipped_shift(x)) is not None:
            return recorder.step(value, "activation", activation="h_sigmoid", inputs=(shifted,))
        if x.kind == "multiply":
            for whole, gate in (x.inputs, x.inputs[::-1]):
                if _clipped_shift(gate) is whole:
                    return recorder.step(value, "activation", activation="h_swish", inputs=(whole,))
    return recorder.step(value, "multiply_number", number=number)


def _clipped_shift(step: Step) -> Step | None:
    """x, if the step is relu6(x + 3)."""
    if step.kind == "activation" and step.activation == "relu6":
        (shift,) = step.inputs
        if shift.kind == "add_number" and shift.number == 3:
            return shift.inputs[0]
    return None


_LAYERS: dict[type[nn.Module], Callable[..., Step]] = {
    **dict.fromkeys((nn.Conv2d, DepthwiseConv2d, PointwiseConv2d), _conv),
    nn.ZeroPad2d: _pad_layer,
    **dict.fromkeys((nn.BatchNorm2d, nn.BatchNorm1d, nn.SyncBatchNorm), _norm),
    **dict.fromkeys((nn.Linear, Classifier), _linear),
    nn.ReLU: _activation("relu"),
    nn.ReLU6: _relu6,
    nn.Hardswish: _activation("h_swish"),
    nn.Hardsigmoid: _activation("h_sigmoid"),
    nn.SiLU: _activation("silu"),
    nn.GELU: _gelu,
    nn.Sigmoid: _activation("sigmoid"),
    **dict.fromkeys((nn.AdaptiveAvgPool2d, GlobalAvgPool2d), _adaptive_pool_layer),
    nn.MaxPool2d: _max_pool_layer,
    nn.AvgPool2d: _avg_pool_layer,
    **dict.fromkeys((nn.Dropout, nn.Dropout2d, StochasticDepth, nn.Identity), _passed_on),
    nn.Flatten: lambda recorder, value, layer, x: _reshaped(recorder, value, x),
    nn.Unflatten: lambda recorder, value, layer, x: _reshaped(recorder, value, x),
}

_FUNCTIONS: Mapping[Any, Callable[..., Step]] = {
    **dict.fromkeys((operator.add, operator.iadd, torch.add, "add", "add_"), _add),
    **dict.fromkeys((operator.mul, operator.imul, torch.mul, "mul", "mul_"), _multiply),
    **dict.fromkeys((operator.truediv, operator.itruediv, torch.div, "div", "div_"), _divide),
    **dict.fromkeys((F.relu, F.relu_, torch.relu, torch.relu_, "relu", "relu_"), _activation("relu")),
    F.conv2d: _functional_conv,
    F.pad: _pad,
    F.relu6: _relu6,
    F.hardswish: _activation("h_swish"),
    F.hardsigmoid: _activation("h_sigmoid"),
    F.silu: _activation("silu"),
    F.gelu: _gelu,
    **dict.fromkeys((F.sigmoid, torch.sigmoid, "sigmoid", "sigmoid_"), _activation("sigmoid")),
    **dict.fromkeys((F.dropout, F.dropout2d), _dropout),
    stochastic_depth: _stochastic_depth,
    F.adaptive_avg_pool2d: _global_pool,
    **dict.fromkeys((F.max_pool2d, torch.max_pool2d), _max_pool),
    F.avg_pool2d: _avg_pool,
    **dict.fromkeys((torch.mean, "mean"), _mean),
    **dict.fromkeys(
        (
            torch.flatten, torch.reshape, torch.squeeze, torch.unsqueeze, operator.getitem,
            "flatten", "reshape", "view", "squeeze", "unsqueeze", "view_as", "reshape_as",
        ),
        _reshaped,
    ),
    **dict.fromkeys(("expand", "expand_as"), _expanded),
    **dict.fromkeys(("contiguous", "clone", "detach"), _passed_on),
}  # fmt: skip
