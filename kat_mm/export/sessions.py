"""Exported files in their runtimes: arrays in, arrays out."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch

from kat_mm.checkpoints.trust import is_trusted
from kat_mm.errors import UserError

Session = Callable[..., list[np.ndarray]]


def open_session(path: Path, threads: int | None = None, allow_pickle: bool = False) -> Session:
    """Open a file in the runtime of its suffix, on the CPU.

    Args:
        path: .onnx (onnxruntime), .xml (OpenVINO), .pt2 or .aoti.pt2 (PyTorch).
        threads: Number of threads. Default: None, the runtime's own; PyTorch's are those of the
            process.
        allow_pickle: Open files of PyTorch, which run code as they are read. Default: False.

    Returns:
        A function from arrays, in the order of the file's inputs, to the list of its outputs.

    Raises:
        UserError: The runtime is not installed, or does not read the file, or it is PyTorch's and
            is not trusted.
    """
    makers = {'.onnx': _onnxruntime, '.xml': _openvino, '.aoti.pt2': _aotinductor, '.pt2': _torch}
    make = next((maker for suffix, maker in makers.items() if path.name.endswith(suffix)), None)
    if make is None:
        raise UserError(f'{path} is no exported model: it ends in none of {", ".join(makers)}')
    # torch.export evaluates the expressions of sizes and unpickles; AOTInductor's is machine code.
    if make in (_torch, _aotinductor) and not (allow_pickle or is_trusted()):
        raise UserError(
            f'{path} is a program, of which PyTorch runs code as it is read. If you trust its '
            'source, say --allow-pickle (in Python load(..., allow_pickle=True)); .onnx and .xml '
            'are read as data'
        )
    try:
        return make(path, threads)
    except UserError:
        raise
    except ImportError as error:
        raise UserError(f'{path} needs {error.name}: pip install {error.name}') from error
    except Exception as error:
        # OpenVINO says on the first line where in its code that was.
        reason = ' '.join(str(error).split())
        raise UserError(f'{path} cannot be read: {reason[:300]}') from error


def _onnxruntime(path: Path, threads: int | None) -> Session:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads or 0
    _check_outside_data(path)
    session = onnxruntime.InferenceSession(str(path), options, providers=['CPUExecutionProvider'])
    names = [value.name for value in session.get_inputs()]
    return lambda *arrays: session.run(None, dict(zip(names, arrays, strict=True)))


def _check_outside_data(path: Path) -> None:
    """Refuse weights that lie elsewhere than in the one file beside it that belongs to it.

    A model may name any file of the machine, and the SHA-256 beside it tells of that one alone.
    """
    # Whatever has such weights has this word; to read all others takes no package more.
    if b'location' not in path.read_bytes():
        return
    import onnx

    own = f'{path.name}.data'
    for tensor in _tensors(onnx.load(str(path), load_external_data=False)):
        for entry in tensor.external_data:
            if entry.key == 'location' and entry.value != own:
                raise UserError(
                    f'{path} has weights in {entry.value!r}; they are to be in the file itself, or '
                    f'in {own} beside it'
                )


def _tensors(message) -> Iterator:
    """All tensors in a message of ONNX, also those of functions and of graphs in nodes."""
    if message.DESCRIPTOR.name == 'TensorProto':
        yield message
        return
    for field, value in message.ListFields():
        if field.message_type is not None:
            parts = [value] if hasattr(value, 'DESCRIPTOR') else value
            for part in parts:
                yield from _tensors(part)


def _openvino(path: Path, threads: int | None) -> Session:
    import openvino

    # New CPUs compute in bfloat16 otherwise, which is 1e-2 away.
    options: dict = dict(INFERENCE_PRECISION_HINT='f32')
    if threads:
        options['INFERENCE_NUM_THREADS'] = threads
    model = openvino.Core().compile_model(str(path), 'CPU', options)
    return lambda *arrays: [value.copy() for value in model(list(arrays)).values()]


def _torch(path: Path, threads: int | None) -> Session:
    import kat_mm.export.operators  # noqa: F401  which detectors call

    # Guards are about shapes alone, which the caller checks; some are of sizes that make no
    # difference, such as whether a pooled side is odd.
    return _of_tensors(torch.export.load(path).module(check_guards=False))


def _aotinductor(path: Path, threads: int | None) -> Session:
    import torch._inductor

    import kat_mm.export.operators  # noqa: F401  which detectors call

    return _of_tensors(torch._inductor.aoti_load_package(str(path)))


def _of_tensors(module: Callable) -> Session:
    def run(*arrays: np.ndarray) -> list[np.ndarray]:
        with torch.no_grad():
            outputs = module(*map(torch.from_numpy, arrays))
        outputs = outputs if isinstance(outputs, tuple | list) else (outputs,)
        return [output.numpy() for output in outputs]

    return run
