"""CUDA graphs of a model's parts: one call starts what took the host thousands.

A part keeps its name, its parameters and its hooks; its ``forward`` replays a graph where the
inputs are those that were recorded, and is computed by itself everywhere else. What a graph cannot
see (a parameter that moved, a hook inside, another shape) is looked at before each replay.
"""

import copy
import logging
import random
import weakref
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from .parts import parts_of, processes

_logger = logging.getLogger(__name__)

_WARM_UPS = 3
_MOST_MOVES = 2  # of parameters, after which a part is recorded anew
_MOST_SHAPES = 4  # of evaluation: an image of ADE20K has one to three windows

# How often generators were renewed: a graph draws from those that it was recorded with.
_renewed = 0

GRAPHED_PARTS = ('backbone', 'neck', 'rpn_head', 'decode_head', 'auxiliary_head')


def graph_parts(model: nn.Module, names: Sequence[str] | None = None) -> None:
    """Let parts of a model run as CUDA graphs, forward and backward.

    In training mode a part is recorded at its first call; in evaluation without gradients at the
    second call in a row with inputs of one shape, for up to four shapes. Inputs of other shapes are
    computed without.

    Args:
        model: An OpenMMLab model, not wrapped. One whose parts do not call each other by tensors
            names methods of its own that take and give tensors in ``graphed_methods``. Where its
            ``graph_mode`` changes, these are recorded anew.
        names: Parts of it, as ``model.get_submodule`` finds them; those that it lacks are left out.
            Default: ``GRAPHED_PARTS``. A model with ``graphed_methods`` has those alone.
    """
    graphed = []
    methods = getattr(model, 'graphed_methods', ())
    if methods:
        found = [(model, name, name) for name in methods]
        if names:
            _logger.warning(
                'CUDA graphs: %s is recorded as a whole; %s is not called by itself',
                type(model).__name__,
                ', '.join(names),
            )
    else:
        parts = parts_of(model, names or GRAPHED_PARTS)
        found = [(part, name, 'forward') for name, part in parts]
    for part, name, method in found:
        reason = _unfit(part)
        if reason:
            _logger.warning('CUDA graphs: %s runs without, since %s', name, reason)
            continue
        if not isinstance(getattr(part, method), GraphedForward):
            setattr(part, method, GraphedForward(part, name, getattr(part, method)))
        graphed.append(name)
    _logger.info('CUDA graphs: %s', ', '.join(graphed) or 'none')


def _unfit(part: nn.Module) -> str | None:
    synchronised = any(isinstance(module, nn.SyncBatchNorm) for module in part.modules())
    if synchronised and processes() > 1:
        return 'its SyncBatchNorm talks to other processes'
    if any(buffer.requires_grad for buffer in part.buffers()):
        return 'a buffer of it is trained'
    return None


class GraphedForward:
    """The ``forward`` of a module, or another method, replayed from a CUDA graph where it is sound.

    Args:
        part: The module.
        name: Its name in the log.
        method: What is recorded.
    """

    def __init__(self, part: nn.Module, name: str, method: Callable):
        self.part, self.name = part, name
        self.plain = method
        self.recordings: dict[tuple, Recording] = {}  # by whether it trains, and its inputs
        self.left = {True: _MOST_MOVES, False: _MOST_MOVES}
        self._look()
        self._run = lambda: None  # a weak reference to the latest run with gradients
        self._pool = None
        self._last_key = None
        self._mode = None
        self._said = set()

    def _look(self) -> None:
        self._modules = list(self.part.modules())
        # What a module holds, by names; the dicts stay where entries change.
        self._held = [held for m in self._modules for held in (m._parameters, m._buffers)]
        self._children = [module._modules for module in self._modules]

    def __deepcopy__(self, memo: dict) -> Callable:
        # A copy of the model has other parameters, and may never be called (EMA).
        return copy.deepcopy(self.plain, memo)

    def __call__(self, *args):
        recording = self._recording(args)
        if recording is None:
            return self.plain(*args)
        return recording.run(args)

    def _recording(self, args: tuple) -> 'Recording | None':
        """What may be replayed for these arguments."""
        trains = self.part.training
        if trains != torch.is_grad_enabled() or not self.left[trains]:
            return None
        inputs, _ = tree_flatten(args)
        if not all(isinstance(x, Tensor) and _on_gpu(x) for x in inputs):
            return self._say('tensors', 'it takes something else than tensors of a GPU')
        if torch.compiler.is_compiling() or _is_capturing():
            return None
        if self._has_hooks():
            return self._say('hooks', 'something listens to a module inside it')
        run = self._run()
        if run is not None and not run.done:
            # Its activations are still needed. Two forward passes share no memory.
            return self._say('order', 'it is called again before its backward pass')
        mode = getattr(self.part, 'graph_mode', None)
        if mode != self._mode:
            self._mode = mode
            self._forget(*self.recordings)
        key = trains, _key(inputs)
        seen, self._last_key = self._last_key, key
        recording = self.recordings.get(key)
        if recording is not None:
            if recording.state == self._state():
                return recording
            self.left[trains] -= 1
            self._forget(key)
            if not self.left[trains]:
                return self._say('moves', 'its parameters move')
        others = [r for k, r in self.recordings.items() if k[0] == trains and k != key]
        if len(others) == (1 if trains else _MOST_SHAPES):
            return self._say(
                'inputs',
                f'its inputs {_describe(inputs)} are others than those recorded, '
                f'{" and ".join(_describe(other.inputs) for other in others)}',
            )
        if not trains and seen != key:
            return None
        return self._record(args, key)

    def _forget(self, *keys: tuple) -> None:
        """Let go of recordings. Gradients may still lie in their memory: others get their own."""
        for key in keys:
            del self.recordings[key]
        self._pool = None

    def _record(self, args: tuple, key: tuple) -> 'Recording | None':
        self._look()
        try:
            if self._pool is None:
                self._pool = _new_pool()
            recording = Recording(self, args)
        except Exception as error:  # of the recording alone: without it the call says what is wrong
            self.left[key[0]] = 0
            if isinstance(error, torch.OutOfMemoryError):
                torch.cuda.empty_cache()
            return self._say('failed', f'recording fails: {type(error).__name__}: {error}')
        recording.state = self._state()
        self.recordings[key] = recording
        return recording

    def _has_hooks(self) -> bool:
        # Those of the part itself are called around its forward.
        return any(
            module._forward_hooks
            or module._forward_pre_hooks
            or module._backward_hooks
            or module._backward_pre_hooks
            for module in self._modules[1:]
        )

    def _state(self) -> tuple:
        """Where parameters and buffers lie, what is trained, and in which mode each module is."""
        tensors = [x for held in self._held for x in held.values() if x is not None]
        return (
            _renewed,
            [tensor.data_ptr() for tensor in tensors],
            [tensor.requires_grad for tensor in tensors],
            [module.training for module in self._modules],
            [id(child) for children in self._children for child in children.values()],
        )

    def _say(self, kind: str, reason: str) -> None:
        if kind not in self._said:
            self._said.add(kind)
            _logger.warning('CUDA graphs: %s runs without, where %s', self.name, reason)


class Recording:
    """A forward pass, and the backward pass if there is one, to be replayed on new inputs."""

    def __init__(self, owner: GraphedForward, args: tuple):
        inputs, self._structure = tree_flatten(args)
        self.owner = owner
        self.inputs = [_static(x) for x in inputs]
        self.parameters = [p for p in owner.part.parameters() if p.requires_grad]
        # DDP keeps the nodes of the parameters, which belong to the stream that it was made in; one
        # step to that stream ends a recording. So it is of leaves of its own, in the same memory.
        self._leaves = {
            f'part.{name}': nn.Parameter(p.detach(), requires_grad=p.requires_grad)
            for name, p in owner.part.named_parameters()
        }
        # A frozen part has nothing to compute backward.
        self.trains = owner.part.training and bool(self._wanted())
        device = self.inputs[0].device
        autocast = torch.autocast(
            device.type,
            torch.get_autocast_dtype(device.type),
            torch.is_autocast_enabled(device.type),
            cache_enabled=False,
        )
        buffers = [buffer.clone() for buffer in owner.part.buffers()]
        generator = torch.cuda.get_rng_state(device) if device.type == 'cuda' else None
        host = _host_generators()
        try:
            with autocast:
                self._warm_up()
                if _host_generators() != host:
                    raise RuntimeError(
                        'it draws random numbers on the host, which a graph would freeze'
                    )
                self._capture()
        except Exception:
            _renew_generators()
            raise
        finally:
            # As if nothing had been computed yet.
            with torch.no_grad():
                for buffer, before in zip(owner.part.buffers(), buffers, strict=True):
                    buffer.copy_(before)
            if generator is not None:
                torch.cuda.set_rng_state(generator, device)

    def _forward(self) -> list[Tensor]:
        outputs, self._output_structure = tree_flatten(
            torch.func.functional_call(
                _Plain(self.owner),
                self._leaves,
                tuple(tree_unflatten(self.inputs, self._structure)),
            )
        )
        if not all(isinstance(output, Tensor) for output in outputs):
            raise TypeError('its outputs are not tensors alone')
        return outputs

    def _backward(self, outputs: list[Tensor], gradients: list[Tensor]) -> list[Tensor | None]:
        return list(
            torch.autograd.grad(
                [output for output in outputs if output.requires_grad],
                self._wanted(),
                gradients,
                allow_unused=True,
            )
        )

    def _wanted(self) -> list[Tensor]:
        trained = [*self.inputs, *self._leaves.values()]
        return [x for x in trained if x.requires_grad]

    def _warm_up(self) -> None:
        """What is compiled, tuned or allocated once is not recorded."""
        torch.cuda.synchronize()
        with torch.cuda.stream(torch.cuda.Stream()):
            for _ in range(_WARM_UPS):
                outputs = self._forward()
                if self.trains:
                    trained = [output for output in outputs if output.requires_grad]
                    self._backward(outputs, [torch.zeros_like(output) for output in trained])
        del outputs
        torch.cuda.synchronize()

    def _capture(self) -> None:
        outputs, self.replay_forward = self._graph(self._forward)
        self.output_gradients, self.gradients = [], []
        if self.trains:
            self.output_gradients = [torch.zeros_like(o) for o in outputs if o.requires_grad]
            self.gradients, self.replay_backward = self._graph(
                lambda: self._backward(outputs, self.output_gradients)
            )
        self.differentiable = [output.requires_grad for output in outputs]
        self.outputs = [output.detach() for output in outputs]

    def _graph(self, function: Callable[[], list]) -> tuple[list, Callable[[], None]]:
        graph = torch.cuda.CUDAGraph()
        # Other threads (pinned memory, NCCL's watchdog) go on meanwhile.
        with torch.cuda.graph(graph, pool=self.owner._pool, capture_error_mode='thread_local'):
            result = function()
        return result, graph.replay

    def run(self, args: tuple):
        """The part's output for these arguments, whose backward pass is replayed too."""
        inputs, _ = tree_flatten(args)
        if self.trains:
            outputs = _Replay.apply(self, *inputs, *self.parameters)
        else:
            outputs = self.start(inputs)
        return tree_unflatten(list(outputs), self._output_structure)

    def start(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        self._spare_gradients()
        with torch.no_grad():
            for static, given in zip(self.inputs, inputs, strict=True):
                static.copy_(given)
        self.replay_forward()
        self.versions = [output._version for output in self.outputs]
        return [output.detach() for output in self.outputs]

    def _spare_gradients(self) -> None:
        """Move gradients out of the graphs' memory, to which there is more to add.

        Autograd took it for them; a forward pass, of evaluation too, uses it on its way.
        """
        recordings = self.owner.recordings.values()
        places = {g.data_ptr() for r in recordings for g in r.gradients if g is not None}
        for parameter in self.parameters if places else ():
            if parameter.grad is not None and parameter.grad.data_ptr() in places:
                parameter.grad = parameter.grad.clone()

    def finish(self, gradients: Sequence[Tensor | None]) -> list[Tensor | None]:
        """Gradients of inputs and parameters, from those of the differentiable outputs."""
        if self.versions != [output._version for output in self.outputs]:
            raise RuntimeError(
                f'an output of {self.owner.name} was changed in place, which its CUDA graph cannot '
                'see; with cuda_graphs=False it is computed without'
            )
        for static, given in zip(self.output_gradients, gradients, strict=True):
            static.zero_() if given is None else static.copy_(given)
        self.replay_backward()
        found = iter([None if g is None else g.detach() for g in self.gradients])
        of_inputs = [next(found) if x.requires_grad else None for x in self.inputs]
        # They may be somebody's to keep; those of parameters are spared before they are lost.
        return [None if g is None else g.clone() for g in of_inputs] + list(found)


class _Plain(nn.Module):
    """A part by its plain forward, for a call with other parameters."""

    def __init__(self, owner: GraphedForward):
        super().__init__()
        self.part = owner.part
        self.forward = owner.plain


class _Run:
    """A forward pass whose backward pass is to come."""

    done = False


class _Replay(torch.autograd.Function):
    @staticmethod
    def forward(ctx, recording: Recording, *tensors: Tensor):
        ctx.recording, ctx.run = recording, _Run()
        recording.owner._run = weakref.ref(ctx.run)
        outputs = recording.start(tensors[: len(recording.inputs)])
        ctx.mark_non_differentiable(
            *(o for o, has in zip(outputs, recording.differentiable, strict=True) if not has)
        )
        ctx.set_materialize_grads(False)
        return tuple(outputs)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, *gradients):
        recording = ctx.recording
        if ctx.run.done:
            raise RuntimeError(
                f'{recording.owner.name} runs as a CUDA graph, whose backward pass can be computed '
                'once; with cuda_graphs=False it can be repeated'
            )
        ctx.run.done = True
        given = [g for g, has in zip(gradients, recording.differentiable, strict=True) if has]
        return None, *recording.finish(given)


def _renew_generators() -> None:
    """A recording that fails leaves the generators believing that it goes on: draws would fail."""
    global _renewed
    _renewed += 1
    if torch.cuda.is_available():
        for generator in torch.cuda.default_generators:
            generator.graphsafe_set_state(generator.clone_state())


def _static(x: Tensor) -> Tensor:
    return x.detach().clone().requires_grad_(x.requires_grad)


def _key(inputs: Sequence[Tensor]) -> tuple:
    device = inputs[0].device.type if inputs else 'cuda'
    return (
        torch.is_autocast_enabled(device),
        torch.get_autocast_dtype(device),
        *((x.shape, x.stride(), x.dtype, x.device, x.requires_grad) for x in inputs),
    )


def _describe(inputs: Sequence[Tensor]) -> str:
    return ', '.join(f'{str(x.dtype)[6:]} {tuple(x.shape)}' for x in inputs)


def _host_generators() -> tuple:
    kind, keys, *position = np.random.get_state()
    return random.getstate(), torch.get_rng_state().numpy().tobytes(), keys.tobytes(), position


def _on_gpu(x: Tensor) -> bool:
    return x.is_cuda


def _is_capturing() -> bool:
    return torch.cuda.is_current_stream_capturing()


def _new_pool():
    return torch.cuda.graph_pool_handle()
