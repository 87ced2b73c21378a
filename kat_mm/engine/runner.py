from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.runner import Runner
from mmengine.runner.checkpoint import load_state_dict
from torch import nn

from kat_mm.backbones import convert_for_model
from kat_mm.checkpoints import read_checkpoint


class CheckpointRunner(Runner):
    """mmengine's Runner, whose ``load_from`` takes every checkpoint that a KAT can start from.

    Files are read without running code in them, also where mmengine would. The workers of the data
    loaders end with a run, be it by an error.
    """

    def train(self) -> nn.Module:
        try:
            return super().train()
        finally:
            self._stop_workers()

    def val(self) -> dict:
        try:
            return super().val()
        finally:
            self._stop_workers()

    def test(self) -> dict:
        try:
            return super().test()
        finally:
            self._stop_workers()

    def _stop_workers(self) -> None:
        """At the interpreter's exit each persistent worker of a pinning loader takes 5 seconds."""
        for loop in (self._train_loop, self._val_loop, self._test_loop):
            loader = getattr(loop, 'dataloader', None)  # a loop that was not used is a dict
            iterator = getattr(loader, '_iterator', None)
            if iterator is not None:
                iterator._shutdown_workers()
                loader._iterator = None

    def load_checkpoint(
        self, filename: str, map_location='cpu', strict: bool = False, revise_keys=None
    ) -> dict:
        """Load a checkpoint of any layout; see :func:`kat_mm.backbones.convert_for_model`.

        ``map_location`` and ``revise_keys`` are mmengine's, and not needed.
        """
        model = self.model
        while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
            model = model.module
        content = read_checkpoint(filename)
        # In a file with averaged weights (EMA) these are the state dict. Only a resumed run needs
        # what else is in it.
        checkpoint = content if self._resume else {}
        checkpoint['state_dict'] = convert_for_model(content, model, filename)
        self.call_hook('after_load_checkpoint', checkpoint=checkpoint)
        load_state_dict(model, checkpoint['state_dict'], strict, self.logger)
        self._has_loaded = True
        self.logger.info(f'Load checkpoint from {filename}')
        return checkpoint
