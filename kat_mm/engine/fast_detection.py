from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner


class FastDetectionHook(Hook):
    """Let the heads of a detector of mmdet compute without waiting for the GPU.

    The same losses; docs/detection.md tells what differs in how samples are drawn. Without this
    hook (``default_hooks.fast_detection=None`` in our configs) a model keeps mmdet's heads, and so
    does every part that is not known.
    """

    def before_run(self, runner: Runner) -> None:
        from kat_mm.dense.detection import use_fast_heads  # mmdet is for those who detect

        model = runner.model
        use_fast_heads(model.module if is_model_wrapper(model) else model)
