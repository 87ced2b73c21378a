_base_ = './default_runtime.py'

default_scope = 'mmdet'
custom_hooks = [*_base_.custom_hooks, dict(type='Float32BoxesHook')]
# Images differ in size, and in their number of objects.
env_cfg = dict(cudnn_benchmark=False)
default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=50, log_metric_by_epoch=False),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(
        type='AtomicCheckpointHook',
        by_epoch=False,
        interval=5000,
        save_best='coco/bbox_mAP',
        max_keep_ckpts=2,
    ),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    visualization=dict(type='DetVisualizationHook'),
    # Without it, mmdet's heads as they are.
    fast_detection=dict(type='FastDetectionHook'),
)
vis_backends = [dict(type='LocalVisBackend')]
visualizer = dict(type='DetLocalVisualizer', vis_backends=vis_backends, name='visualizer')
log_processor = dict(by_epoch=False)
