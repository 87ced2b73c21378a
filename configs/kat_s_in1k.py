_base_ = [
    './_base_/models/kat_classifier.py',
    './_base_/datasets/imagenet.py',
    './_base_/classification_runtime.py',
    './_base_/schedules/in1k_300e.py',
]

# The average of the weights is what is evaluated, and what a checkpoint holds as its state dict.
custom_hooks = [
    *_base_.custom_hooks,
    dict(type='EMAHook', momentum=1e-4, priority='ABOVE_NORMAL'),
]
