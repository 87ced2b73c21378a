import os
import signal

from mmengine.hooks import Hook
from mmengine.registry import HOOKS


@HOOKS.register_module()
class StopHook(Hook):
    """Kill the process in the iteration that the environment variable STOP_AT names."""

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter + 1 == int(os.environ.get('STOP_AT', 0)):
            os.kill(os.getpid(), signal.SIGKILL)
