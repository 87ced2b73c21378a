"""Networks to files: ONNX, OpenVINO, torch.export, AOTInductor."""

import contextlib
import io
import logging
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kat_mm.errors import UserError
from kat_mm.installed import is_installed

from .operators import decompositions, onnx_translations

# The compiled package first, whose suffix ends in another's.
SUFFIXES = dict(aotinductor='.aoti.pt2', onnx='.onnx', openvino='.xml', torch='.pt2')
_NEEDED = dict(
    onnx=('onnx', 'onnxscript', 'onnxruntime'),
    openvino=('onnx', 'onnxscript', 'openvino'),
    torch=(),
    aotinductor=(),
)
_OPSET = 20
# Sides of images that a file with dynamic size takes, in patches.
_MOST_PATCHES = 512
_KNOWN = ('aten', 'prims', 'torchvision', '_operator', 'math')


def check_format(format: str) -> None:
    """Refuse a format whose packages or compiler are not installed.

    Raises:
        UserError: It names them.
    """
    compiler = os.environ.get('CXX', 'g++')
    if format == 'aotinductor' and shutil.which(compiler) is None:
        raise UserError(
            f'--format aotinductor needs a C++ compiler, and {compiler} is not there: install '
            'g++, or name another by the environment variable CXX'
        )
    missing = [name for name in _NEEDED[format] if not is_installed(name)]
    if missing:
        raise UserError(
            f'--format {format} needs {" and ".join(missing)}: pip install {" ".join(missing)}'
        )


def trace(
    network: nn.Module, inputs: tuple[Tensor, ...], batch: int | None, multiple: int | None
) -> torch.export.ExportedProgram:
    """Trace a network with torch.export, its rational functions in PyTorch's operators.

    Args:
        network: Of :mod:`kat_mm.export.networks`.
        inputs: Examples; the first is the image.
        batch: The number of images that is fixed; None: any.
        multiple: Sides may be any multiples of this; None: they are those of the example.

    Raises:
        UserError: The network does not export, or not with sizes that are dynamic.
    """
    shapes = [{} if batch else {0: torch.export.Dim('batch')} for _ in inputs]
    if multiple:
        for axis, name in ((2, 'rows'), (3, 'columns')):
            shapes[0][axis] = multiple * torch.export.Dim(name, min=2, max=_MOST_PATCHES)
    what = 'whose height and width are dynamic' if multiple else 'of a fixed size'
    try:
        with torch.no_grad(), _quiet():
            program = torch.export.export(network, inputs, dynamic_shapes=tuple(shapes))
            program = program.run_decompositions(decompositions())
    except Exception as error:
        raise UserError(
            f'{type(network).__name__} with inputs {what} does not export: '
            f'{type(error).__name__}: {first_line(error)}'
        ) from error
    _check_dynamic(program, shapes)
    _check_operators(program)
    return program


def _check_dynamic(program: torch.export.ExportedProgram, shapes: list[dict]) -> None:
    """Refuse a program in which a size is fixed that was asked to be dynamic."""
    placeholders = [n for n in program.graph.nodes if n.op == 'placeholder']
    names = program.graph_signature.user_inputs
    for name, dims in zip(names, shapes, strict=True):
        value = next(n for n in placeholders if n.name == name).meta['val']
        for axis in dims:
            if isinstance(value.shape[axis], int):
                raise UserError(
                    f'axis {axis} of {name} comes out fixed at {value.shape[axis]}: a part of the '
                    'model depends on it; export with a fixed size'
                )


def _check_operators(program: torch.export.ExportedProgram) -> None:
    """Refuse operators of nobody's standard, by name and by the module that calls them."""
    for node in program.graph.nodes:
        space = getattr(node.target, 'namespace', 'aten')
        if node.op == 'call_function' and space not in _KNOWN:
            if str(node.target) == 'kat_mm_export.nms_mask.default':
                continue
            where = list((node.meta.get('nn_module_stack') or {'': ('', '')}).values())[-1][0]
            raise UserError(f'{node.target} of {where or "the model"} does not export')


def write(
    program: torch.export.ExportedProgram,
    network: nn.Module,
    paths: dict[str, Path],
    half: bool = False,
) -> None:
    """Write a program to files.

    Args:
        program: Of :func:`trace`.
        network: Names the inputs and outputs.
        paths: The file of each format.
        half: Store weights as float16, in ONNX and OpenVINO. Arithmetic stays in float32.

    Raises:
        UserError: The compiler of AOTInductor does not work.
    """
    for path in paths.values():
        path.parent.mkdir(parents=True, exist_ok=True)
    if 'torch' in paths:
        torch.export.save(program, paths['torch'])
    if 'aotinductor' in paths:
        _compile(program, paths['aotinductor'])
    if not paths.keys() & {'onnx', 'openvino'}:
        return
    onnx_program = _translate(program, network)
    if 'openvino' in paths:
        import openvino

        with tempfile.TemporaryDirectory() as folder:
            onnx_file = Path(folder, 'model.onnx')
            onnx_program.save(str(onnx_file))
            model = openvino.convert_model(onnx_file)
        openvino.save_model(model, paths['openvino'], compress_to_fp16=half)
    if 'onnx' in paths:
        if half:
            _halve(onnx_program.model)
        onnx_program.save(str(paths['onnx']))


def _compile(program: torch.export.ExportedProgram, path: Path) -> None:
    """Write a package of AOTInductor, for the processor of this machine."""
    import torch._inductor

    try:
        with _quiet():
            torch._inductor.aoti_compile_and_package(program, package_path=str(path))
    except Exception as error:
        raise UserError(
            f'AOTInductor does not compile the program: {type(error).__name__}: {first_line(error)}'
        ) from error


def _translate(
    program: torch.export.ExportedProgram, network: nn.Module
) -> 'torch.onnx.ONNXProgram':
    """A program in ONNX's operators."""
    with _quiet():
        onnx_program = torch.onnx.export(
            program,
            dynamo=True,
            opset_version=_OPSET,
            input_names=list(network.inputs),
            output_names=list(network.outputs),
            custom_translation_table=onnx_translations(),
            verbose=False,
        )
    assert onnx_program is not None  # as only the exporter without dynamo returns
    # The exporter's notes: a stack trace, with this machine's paths, in every node.
    graph = onnx_program.model.graph
    noted_all: list[Any] = [onnx_program.model, graph, *graph.all_nodes()]
    for noted in (*noted_all, *graph.initializers.values()):
        noted.metadata_props.clear()
    for node in graph.all_nodes():
        for value in node.outputs:
            value.metadata_props.clear()
    return onnx_program


def first_line(error: Exception) -> str:
    """What an error says, without the pages behind it."""
    lines = (line.strip() for line in str(error).splitlines())
    return next((line for line in lines if line), '')[:400]


def _halve(model) -> None:
    """Store float32 weights of a graph as float16, each followed by a cast."""
    import numpy as np
    import onnx_ir as ir

    graph = model.graph
    for name, value in list(graph.initializers.items()):
        # Of vectors, coefficients of rational functions are among them, little would be saved.
        if value.dtype != ir.DataType.FLOAT or len(value.shape) < 2 or np.prod(value.shape) < 256:
            continue
        array = value.const_value.numpy()
        if np.abs(array).max() > np.finfo(np.float16).max:
            continue
        small = ir.Value(
            name=f'{name}_float16',
            const_value=ir.tensor(array.astype(np.float16), name=f'{name}_float16'),
            shape=value.shape,
            type=ir.TensorType(ir.DataType.FLOAT16),
        )
        graph.initializers.pop(name)
        graph.initializers[small.name] = small
        cast = ir.node('Cast', [small], attributes={'to': ir.DataType.FLOAT})
        cast.outputs[0].name, cast.outputs[0].shape = name, value.shape
        cast.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
        ir.convenience.replace_all_uses_with(value, cast.outputs[0])
        graph.insert_before(graph[0], cast)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what exporters say of themselves."""
    level = logging.getLogger('torch.onnx').level
    logging.getLogger('torch.onnx').setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter('ignore')
            yield
    finally:
        logging.getLogger('torch.onnx').setLevel(level)
