"""What the process that tools are forked from has imported, and leaves out to save time."""

import mmdet.datasets
import mmdet.engine
import mmdet.evaluation
import mmdet.models
import mmdet.visualization  # noqa: F401
import mmengine.runner.runner
import mmpretrain.datasets
import mmpretrain.engine
import mmpretrain.evaluation
import mmpretrain.models
import mmpretrain.visualization  # noqa: F401
import mmseg.datasets
import mmseg.engine
import mmseg.evaluation
import mmseg.models
import mmseg.visualization  # noqa: F401
import yapf.yapflib.yapf_api

# These take longer than a tiny model trains: yapf formats each copy of the config, and the
# environment's description calls compilers. tests/integration/test_distributed.py does without.
yapf.yapflib.yapf_api.FormatCode = lambda text, **_: (text, True)
mmengine.runner.runner.collect_env = dict
