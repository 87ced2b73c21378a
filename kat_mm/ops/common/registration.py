"""How operators are made known to PyTorch: the first family of ``kat_mm.ops``."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch._C._functorch import TransformType, get_interpreter_stack
from torch._functorch import config as aot_config
from torch._subclasses.functional_tensor import FunctionalTensorMode


class Operator:
    """An operator, ``torch.ops.kat_mm.NAME``, that is called directly where nothing traces.

    The registration with ``torch.library`` serves compilation and export. An ordinary call goes
    around PyTorch's dispatcher, which costs several times what a kernel launch does. A program that
    is compiled for a GPU calls the kernels themselves, for the same reason.

    Gradients are a tuple of fixed length: each place has one meaning, and holds None where there is
    no such gradient, also in the results of ``backward``.

    Args:
        name: Name of the operator; that of its gradient is followed by ``_backward``. Another
            package's has its own family before it, ``family::name``.
        signature: Arguments and results in PyTorch's schema language.
        forward: Computes the results.
        fake: Results of ``forward``, uninitialised, on any device.
        backward_signature: As ``signature``, for the gradient. Default: there is none.
        backward: Computes the gradient.
        backward_fake: Results of ``backward``, uninitialised, on any device.
        setup_context: Saves what the gradient needs, as in ``torch.library.register_autograd``.
        formula: Gradients of all arguments from (ctx, ``backward``, gradients of the results).
    """

    def __init__(
        self,
        name: str,
        signature: str,
        *,
        forward: Callable,
        fake: Callable,
        backward_signature: str | None = None,
        backward: Callable | None = None,
        backward_fake: Callable | None = None,
        setup_context: Callable | None = None,
        formula: Callable | None = None,
    ):
        name = name if '::' in name else f'kat_mm::{name}'
        self._forward = self._direct = forward
        self._registered = _register(name, signature, forward, fake)
        self._is_differentiable = backward is not None
        if self._is_differentiable:
            registered_backward = _register(
                name + '_backward', backward_signature, backward, backward_fake
            )
            torch.library.register_autograd(
                name,
                lambda ctx, *grads: formula(ctx, registered_backward, *grads),
                setup_context=setup_context,
            )
            self._direct = _direct_with_gradient(name, forward, backward, setup_context, formula)

    def __call__(self, x: Tensor, *others):
        if not is_eager(x):
            if self._is_differentiable and _is_differentiated_by_functorch():
                # PyTorch would give a derivative of zero in forward mode.
                raise NotImplementedError(
                    f'{self._registered.name()} has no derivatives by torch.func; '
                    'use torch.autograd.grad or backward()'
                )
            return self._registered(x, *others)
        if torch.is_grad_enabled():
            return self._direct(x, *others)
        return self._forward(x, *others)


def _register(name: str, signature: str, function: Callable, fake: Callable):
    """Make ``torch.ops.FAMILY.NAME`` of a function; returns it."""
    family, _, own = name.partition('::')
    torch.library.define(name, signature)
    torch.library.impl(name, 'default', function)
    torch.library.register_fake(name, fake)
    torch.library.register_torch_dispatch(
        name, FunctionalTensorMode, _kernels_in_place_of_operator(function)
    )
    return getattr(getattr(torch.ops, family), own).default


def _direct_with_gradient(
    name: str, forward: Callable, backward: Callable, setup_context: Callable, formula: Callable
) -> Callable:
    """``forward`` as one node of the graph, around PyTorch's dispatcher."""

    def refuse(ctx, *grads):
        raise NotImplementedError(f'{name} is differentiable once, not twice')

    # Without a formula PyTorch would take the gradient for a constant.
    torch.library.register_autograd(f'{name}_backward', refuse)

    class Once(torch.autograd.Function):
        """Gradients as they are, of which the derivative is refused."""

        @staticmethod
        def forward(ctx, anchor, *gradients):
            return tuple(None if g is None else g.view_as(g) for g in gradients)

        backward = staticmethod(refuse)

    class Direct(torch.autograd.Function):
        @staticmethod
        def forward(ctx, *inputs):
            output = forward(*inputs)
            setup_context(ctx, inputs, output)
            return output

        @staticmethod
        def backward(ctx, *grads):
            if not torch.is_grad_enabled():
                return formula(ctx, backward, *grads)
            with torch.no_grad():  # create_graph=True
                gradients = formula(ctx, backward, *grads)
            return Once.apply(torch.zeros((), requires_grad=True), *gradients)

    return direct(Direct)


def direct(function: type[torch.autograd.Function]) -> Callable:
    """``function.apply`` without what it does for functorch: for use where ``is_eager``."""
    return super(torch.autograd.Function, function).apply


def _kernels_in_place_of_operator(function: Callable) -> Callable:
    """What ``torch.library.triton_op`` does, but for an operator that a CPU computes otherwise."""

    def rule(mode, operator, types, args, kwargs):
        # Exported programs keep the operator: kernels cannot be saved.
        exported = not aot_config.decompose_custom_triton_ops
        if exported or not any(isinstance(arg, Tensor) and arg.is_cuda for arg in args):
            return mode.__torch_dispatch__(operator, types, args, kwargs)
        with mode:
            return function(*args, **kwargs)

    return rule


def _is_differentiated_by_functorch() -> bool:
    if torch.compiler.is_compiling() or not torch._C._are_functorch_transforms_active():
        return False
    derivatives = TransformType.Grad, TransformType.Jvp
    return any(level.key() in derivatives for level in get_interpreter_stack())


def is_eager(x: Tensor) -> bool:
    """Whether ``x`` is an ordinary tensor and nothing traces or transforms the program."""
    return type(x) is Tensor and not (
        torch.compiler.is_compiling()
        or torch.jit.is_tracing()
        or torch._C._are_functorch_transforms_active()
    )


def is_exported() -> bool:
    """Whether the program is being exported or traced, which takes no operators but PyTorch's."""
    # torch.compile counts as exporting where it looks.
    exporting = torch.compiler.is_exporting() and not torch.compiler.is_dynamo_compiling()
    return exporting or torch.jit.is_tracing()
