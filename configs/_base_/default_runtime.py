custom_imports = dict(imports=['kat_mm'], allow_failed_imports=False)

env_cfg = dict(
    cudnn_benchmark=True,
    mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0),
    dist_cfg=dict(backend='nccl'),
)
# With a fixed seed a resumed run goes on as if it had never been stopped.
randomness = dict(seed=0)
default_hooks = dict(
    runtime_info=dict(type='LateRuntimeInfoHook'),
    finite_loss=dict(type='FiniteLossHook'),
    preemption=dict(type='PreemptionHook'),
)
custom_hooks = [dict(type='SeedIterationHook'), dict(type='AverageLossHook')]
log_level = 'INFO'
load_from = None
resume = False
